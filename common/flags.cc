#include "common/flags.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/log.h"
#include "common/standard_streams.h"

ABSL_FLAG(std::string, log_level, "info",
          "Least severe log lines shown: debug, info, warning, error.");
ABSL_FLAG(bool, log_json, false, "Log one JSON object a line in place of text.");

namespace caravan {
namespace {

bool IsAddress(absl::string_view address, int least_port) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < least_port || port > 65535) {
    return false;
  }
  absl::string_view host = address.substr(0, colon);
  const bool is_ipv6 = absl::ConsumePrefix(&host, "[");
  if (is_ipv6 && !absl::ConsumeSuffix(&host, "]")) return false;
  const auto is_strange = [is_ipv6](char c) {
    return absl::ascii_isspace(c) || c == '/' || c == '[' || c == ']' || (c == ':' && !is_ipv6);
  };
  return !host.empty() && std::none_of(host.begin(), host.end(), is_strange);
}

absl::Status NoAddress(std::string_view flag, const std::string& address, int least_port,
                       const char* example) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--", std::string(flag), " is '", address, "'; it must be host:port with a port from ",
      least_port, " to 65535 and an IPv6 host in brackets, such as ", example));
}

// abseil has no list of ours against its own: ours lie under these folders.
bool IsOwnFile(absl::string_view file) {
  for (const char* folder : {"common/", "gateway/", "tokenizer_service/", "worker/", "cli/"}) {
    if (absl::StartsWith(file, folder) || absl::StrContains(file, absl::StrCat("/", folder))) {
      return !absl::StrContains(file, "absl/");
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> ParseFlagsAndArguments(std::string_view usage, int argc, char** argv,
                                                const std::string& version) {
  HoldStandardStreams();
  absl::SetProgramUsageMessage(absl::string_view(usage.data(), usage.size()));
  absl::FlagsUsageConfig config;
  config.contains_helpshort_flags = IsOwnFile;
  config.contains_help_flags = IsOwnFile;
  config.contains_helppackage_flags = IsOwnFile;
  if (!version.empty()) {
    config.version_string = [version] { return version + "\n"; };
  }
  absl::SetFlagsUsageConfig(config);
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  return {arguments.begin() + 1, arguments.end()};
}

void ParseFlags(std::string_view usage, int argc, char** argv, const std::string& version) {
  const std::vector<std::string> arguments = ParseFlagsAndArguments(usage, argc, argv, version);
  if (arguments.empty()) return;
  std::fprintf(stderr, "%s: unexpected argument '%s'; flags are written --name=value\n", argv[0],
               arguments[0].c_str());
  std::exit(2);
}

void LogFlags() {
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (!IsOwnFile(flag->Filename()) || flag->CurrentValue() == flag->DefaultValue()) continue;
    LogInfo("configured", {{"flag", std::string(name)}, {"value", flag->CurrentValue()}});
  }
}

void InitLogFromFlags(const std::string& service) {
  LogOptions options;
  options.service = service;
  options.json = absl::GetFlag(FLAGS_log_json);
  const std::string level = absl::GetFlag(FLAGS_log_level);
  if (level == "debug") {
    options.level = LogLevel::kDebug;
  } else if (level == "info") {
    options.level = LogLevel::kInfo;
  } else if (level == "warning") {
    options.level = LogLevel::kWarning;
  } else if (level == "error") {
    options.level = LogLevel::kError;
  } else {
    std::fprintf(stderr, "--log_level is '%s'; it must be debug, info, warning or error\n",
                 level.c_str());
    std::exit(2);
  }
  InitLog(options);
}

absl::Status CheckIn(const char* flag, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, "; it must be from ", least, " to ", most));
}

absl::Status CheckOneOf(const char* flag, const std::string& value,
                        std::initializer_list<const char*> choices) {
  std::string all;
  for (const char* const& choice : choices) {
    if (value == choice) return absl::OkStatus();
    const bool is_last = &choice == choices.end() - 1;
    absl::StrAppend(&all, all.empty() ? "" : is_last ? " or " : ", ", choice);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is '", value, "'; it must be ", all));
}

absl::Status CheckAddress(std::string_view flag, const std::string& address) {
  if (IsAddress(address, 1)) return absl::OkStatus();
  return NoAddress(flag, address, 1, "localhost:8001");
}

absl::Status CheckListenAddress(std::string_view flag, const std::string& address) {
  if (IsAddress(address, 0)) return absl::OkStatus();
  return NoAddress(flag, address, 0, "0.0.0.0:8001");
}

}  // namespace caravan
