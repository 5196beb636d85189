#include <cstdio>
#include <fstream>
#include <string>

#include "common/flags.h"
#include "common/log.h"
#include "common/shutdown_signal.h"
#include "common/status.h"
#include "gateway/config.h"
#include "gateway/gateway.h"

namespace caravan {
namespace {

// Whole or not at all: a supervisor may read the file at any moment.
absl::Status WritePortFile(const std::string& path, const Gateway& gateway) {
  const std::string unfinished = path + ".tmp";
  {
    std::ofstream file(unfinished, std::ios::trunc);
    file << "grpc=" << gateway.port() << "\nmetrics=" << gateway.metrics_port() << "\n";
    if (!file.flush()) {
      return absl::UnavailableError(absl::StrCat("can't write --port_file ", unfinished));
    }
  }
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("can't write --port_file ", path));
  }
  return absl::OkStatus();
}

absl::Status Run(ShutdownSignal* signal) {
  ASSIGN_OR_RETURN(const GatewayConfig config, LoadGatewayConfig());
  LogFlags();
  ASSIGN_OR_RETURN(const std::unique_ptr<Gateway> gateway, Gateway::Start(config));
  LogInfo("listening", {{"port", gateway->port()}, {"metrics_port", gateway->metrics_port()}});
  if (!config.port_file.empty()) RETURN_IF_ERROR(WritePortFile(config.port_file, *gateway));
  signal->Wait();
  signal->ExitOnNext();
  gateway->Drain();
  return absl::OkStatus();
}

}  // namespace
}  // namespace caravan

int main(int argc, char** argv) {
  caravan::ParseFlags("Caravan's gateway: what clients talk to.", argc, argv);
  caravan::InitLogFromFlags("gateway");
  caravan::ShutdownSignal signal;
  const absl::Status status = caravan::Run(&signal);
  if (status.ok()) return 0;
  caravan::LogError("failed", {{"error", caravan::ToString(status)}});
  return 1;
}
