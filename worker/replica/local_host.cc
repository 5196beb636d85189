#include "worker/replica/local_host.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <fstream>

#include "absl/strings/str_replace.h"

namespace caravan {

std::string LocalHostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

std::string LocalBootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

std::string LocalAddressToward(const std::string& host) {
  std::string address = "127.0.0.1";
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), "9", &hints, &found) != 0) return address;
  // Connecting a datagram socket sends nothing; it chooses the local address.
  const int fd = socket(found->ai_family, SOCK_DGRAM, 0);
  sockaddr_storage local = {};
  socklen_t size = sizeof(local);
  char numeric[NI_MAXHOST];
  if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0 &&
      getnameinfo(reinterpret_cast<sockaddr*>(&local), size, numeric, sizeof(numeric), nullptr, 0,
                  NI_NUMERICHOST) == 0) {
    address = numeric;
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return address;
}

std::string HostOfAddress(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  return absl::StrReplaceAll(host, {{"[", ""}, {"]", ""}});
}

std::string HostOfPeer(const std::string& peer) {
  const size_t scheme = peer.find(':');
  if (scheme == std::string::npos) return peer;
  return HostOfAddress(absl::StrReplaceAll(peer.substr(scheme + 1), {{"%5B", "["}, {"%5D", "]"}}));
}

}  // namespace caravan
