// Who this host is to others.
#pragma once

#include <string>

namespace caravan {

std::string LocalHostName();

// Equal for all processes of one running kernel.
std::string LocalBootId();

// This host's own address on the way to `host` (a name or a numeric address), numeric; the loopback
// address where there is no way.
std::string LocalAddressToward(const std::string& host);

// The host of a gRPC peer such as "ipv4:10.0.0.7:4711" or "ipv6:%5B::1%5D:4711".
std::string HostOfPeer(const std::string& peer);

// The host of host:port, without brackets.
std::string HostOfAddress(const std::string& address);

}  // namespace caravan
