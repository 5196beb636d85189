// caravan_worker: one rank of one replica.
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/flags.h"
#include "common/log.h"
#include "common/server.h"
#include "worker/build_version.h"
#include "worker/device.h"
#include "worker/model/files/mapped_file.h"
#include "worker/process.h"
#include "worker/replica/collectives_builder.h"

int main(int argc, char** argv) {
  using namespace caravan;  // NOLINT(google-build-using-namespace)
  PrepareEnvironmentForCollectives();
  ParseFlags("Serves one rank of a LLaMA model: rank 0 to gateways, the others to rank 0.", argc,
             argv, absl::StrCat("caravan_worker ", kBuildVersion));
  absl::StatusOr<WorkerConfig> config = LoadWorkerConfig();
  if (!config.ok()) {
    std::fprintf(stderr, "caravan_worker: %s\n", std::string(config.status().message()).c_str());
    return 1;
  }
  // Before a device is looked for: the threads that its driver starts block signals as we do, or
  // one of them would take SIGTERM and end the process by it.
  ShutdownSignal signal;
  ExplainLostPages();
  InitLogFromFlags(absl::StrCat("worker/", config->rank));
  LogInfo("starting", {{"build", kBuildVersion}});
  LogFlags();
  if (const absl::Status status = ResolveDevice(&*config); !status.ok()) {
    LogError("failed", {{"status", ToString(status)}});
    return 1;
  }
  return config->rank == 0 ? RunLeader(*config, &signal) : RunFollower(*config, &signal);
}
