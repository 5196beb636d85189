// caravan: starts a cluster on this host and speaks to running ones.
#include <cstdio>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "common/standard_streams.h"

namespace {

constexpr char kUsage[] =
    "caravan COMMAND [options]\n\n"
    "  up        start a cluster on this host and keep it running\n"
    "  demo      start a cluster on the bundled model, stream a story, stop\n"
    "  generate  stream a completion\n"
    "  chat      talk to the model\n"
    "  status    replicas, ranks, load and memory\n"
    "  bench     generate load; latency percentiles and throughput\n\n"
    "caravan COMMAND --help lists the options of a command.\n";

}  // namespace

int main(int argc, char** argv) {
  caravan::HoldStandardStreams();
  const std::string command = argc > 1 ? argv[1] : "--help";
  const std::vector<std::string> words(argv + (argc > 1 ? 2 : 1), argv + argc);
  if (command == "up") return caravan::UpCommand(words);
  if (command == "demo") return caravan::DemoCommand(words);
  if (command == "generate") return caravan::GenerateCommand(words);
  if (command == "chat") return caravan::ChatCommand(words);
  if (command == "status") return caravan::StatusCommand(words);
  if (command == "bench") return caravan::BenchCommand(words);
  if (command == "--help" || command == "-h" || command == "help") {
    caravan::WriteOut(kUsage);
    return caravan::Report(command, absl::OkStatus());
  }
  std::fprintf(stderr, "caravan: there is no command '%s'\n\n%s", command.c_str(), kUsage);
  return 2;
}
