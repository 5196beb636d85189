// The command line of a service: abseil flags, a flag file as configuration file, environment
// through --tryfromenv.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace caravan {

// Parses argv into the flags that the program defines. An unknown flag, or an argument that is
// none, ends the process with exit code 2 and a sentence; --help prints the program's own flags and
// ends it with 0, and so does --version with `version`, or the program's name where there is none.
void ParseFlags(std::string_view usage, int argc, char** argv, const std::string& version = "");

// The same where arguments are allowed (the CLI): returns them.
std::vector<std::string> ParseFlagsAndArguments(std::string_view usage, int argc, char** argv,
                                                const std::string& version = "");

// Logs each flag whose value is not its default, once at start ("effective configuration").
void LogFlags();

// Flags that every service has: --log_level debug|info|warning|error, --log_json.
void InitLogFromFlags(const std::string& service);

// What a flag's value must be, or INVALID_ARGUMENT naming `flag`, the value, and what it may be.
absl::Status CheckIn(const char* flag, int64_t value, int64_t least, int64_t most);
absl::Status CheckOneOf(const char* flag, const std::string& value,
                        std::initializer_list<const char*> choices);

// host:port with a port from 1 to 65535, an IPv6 host in brackets; or INVALID_ARGUMENT naming
// `flag`. To listen port 0 will do too: a free one.
absl::Status CheckAddress(std::string_view flag, const std::string& address);
absl::Status CheckListenAddress(std::string_view flag, const std::string& address);

}  // namespace caravan
