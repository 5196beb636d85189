#include <sys/resource.h>

#include <memory>

#include "common/flags.h"
#include "common/log.h"
#include "common/port_file.h"
#include "common/shutdown_signal.h"
#include "common/status.h"
#include "gateway/config.h"
#include "gateway/gateway.h"

namespace caravan {
namespace {

// A connection is a file descriptor, and the soft limit is often 1024.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::Status Run(ShutdownSignal* signal) {
  ASSIGN_OR_RETURN(const GatewayConfig config, LoadGatewayConfig());
  LogFlags();
  ASSIGN_OR_RETURN(const std::unique_ptr<Gateway> gateway, Gateway::Start(config));
  LogInfo("listening", {{"port", gateway->port()},
                        {"http_port", gateway->http_port()},
                        {"metrics_port", gateway->metrics_port()}});
  if (!config.port_file.empty()) {
    RETURN_IF_ERROR(WritePortFile(config.port_file, {{"grpc", gateway->port()},
                                                     {"http", gateway->http_port()},
                                                     {"metrics", gateway->metrics_port()}}));
  }
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
  caravan::RaiseDescriptorLimit();
  caravan::ShutdownSignal signal;
  const absl::Status status = caravan::Run(&signal);
  if (status.ok()) return 0;
  caravan::LogError("failed", {{"error", caravan::ToString(status)}});
  return 1;
}
