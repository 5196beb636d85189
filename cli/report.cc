#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/commands.h"
#include "cli/terminal.h"

namespace caravan {
namespace {

constexpr int kExitError = 1;
constexpr int kExitInterrupted = 130;

// gRPC's own words for "nobody listens" help nobody.
std::string SentenceOf(const absl::Status& status) {
  const std::string message(status.message());
  if (absl::IsUnavailable(status) && absl::StrContains(message, "failed to connect")) {
    return absl::StrCat(
        "nothing answers there; start a cluster with `caravan up`, or say where one "
        "is with --address=host:port (",
        message, ")");
  }
  // gRPC's answer where the method is none of the server's.
  if (absl::IsUnimplemented(status) && message.empty()) {
    return "what answers there is no gateway; --address takes a gateway's gRPC address, which "
           "`caravan up` prints";
  }
  return message.empty() ? std::string(absl::StatusCodeToString(status.code())) : message;
}

}  // namespace

int Report(const std::string& command, const absl::Status& outcome) {
  absl::Status status = outcome;
  // A request is cancelled too where what it gives can't be written.
  if (outcome.ok() || absl::IsCancelled(outcome)) status = OutputStatus();
  if (status.ok()) status = outcome;
  if (status.ok()) return 0;
  if (absl::IsCancelled(status)) return kExitInterrupted;
  std::fprintf(stderr, "caravan %s: %s\n", command.c_str(), SentenceOf(status).c_str());
  return kExitError;
}

}  // namespace caravan
