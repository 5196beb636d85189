// caravan up: a cluster on this host, supervised until SIGTERM or Ctrl-C.
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/cluster.h"
#include "cli/cluster_flags.h"
#include "cli/cluster_state.h"
#include "cli/commands.h"
#include "cli/log_sink.h"
#include "cli/options.h"
#include "cli/supervisor.h"
#include "cli/terminal.h"

namespace caravan {
namespace {

// As the person typed it, when ./caravan started us.
std::string OwnCommand() {
  const char* typed = std::getenv("CARAVAN_COMMAND");
  return typed != nullptr ? typed : "caravan";
}

std::string Count(int number, const std::string& noun) {
  return absl::StrCat(number, " ", noun, number == 1 ? "" : "s");
}

// With explicit control the model may be nobody's yet.
std::string ServingWhat(const Cluster& cluster, const ClusterOptions& options) {
  if (!cluster.unloaded()) return "Serving " + options.model_name;
  return absl::StrCat("Up, without a model until a client loads ", options.model_name,
                      " (as fastertransformer or ensemble),");
}

void PrintReady(const Cluster& cluster, const ClusterOptions& options, absl::Duration took) {
  WriteOut(
      absl::StrFormat("\n%s after %.1f s: %s of %s\n\n"
                      "  gateway    %s (gRPC: Caravan's API and Triton's)\n"
                      "             http://%s (Triton's API)\n"
                      "  metrics    http://%s/metrics\n"
                      "  tokenizer  %s (gRPC)\n\n",
                      ServingWhat(cluster, options), absl::ToDoubleSeconds(took),
                      Count(options.replicas, "replica"), Count(options.tensor_parallel, "worker"),
                      cluster.gateway_address(), cluster.gateway_http_address(),
                      cluster.gateway_metrics_address(), cluster.tokenizer_address()));
  WriteOut(absl::StrFormat(
      "From the command line:\n"
      "  %s generate --address=%s 'Once upon a time'\n"
      "From Python (pip install grpcio-tools):\n"
      "  PYTHONPATH='%s/proto' python3 -c \"import grpc; "
      "p, s = grpc.protos_and_services('caravan/v1/generation.proto'); "
      "[print(e.tokens.text.decode(), end='', flush=True) for e in "
      "s.GenerationStub(grpc.insecure_channel('%s')).Generate(p.GenerateRequest("
      "prompt=[p.PromptPart(text=b'Once upon a time')], "
      "stopping=p.StoppingParams(max_tokens=100)))]\"\n\n"
      "Ctrl-C stops it.\n",
      OwnCommand(), cluster.gateway_address(), RepositoryFolder(), cluster.gateway_address()));
}

absl::Status RunCluster(const ClusterOptions& options, LogSink* log, ProgressLine* progress) {
  Supervisor supervisor(
      [log](const std::string& name, const std::string& line) { log->Write(name, line); });
  Cluster cluster(options, &supervisor);
  const absl::Time started = absl::Now();
  absl::Status status = cluster.Start([progress](const LoadProgress& load) {
    progress->Update("loading", load.fraction,
                     absl::StrFormat("%.2f GB/s", load.bytes_per_second / 1e9));
  });
  progress->Clear();
  if (!status.ok()) {
    cluster.Stop();
    return status;
  }
  PrintReady(cluster, options, absl::Now() - started);
  const absl::Status written =
      WriteClusterState({.pid = getpid(),
                         .gateway_address = cluster.gateway_address(),
                         .gateway_http_address = cluster.gateway_http_address(),
                         .gateway_metrics_address = cluster.gateway_metrics_address(),
                         .tokenizer_address = cluster.tokenizer_address(),
                         .model = options.model_name});
  if (!written.ok()) log->Write("caravan", std::string(written.message()));
  while (!supervisor.stop_requested()) supervisor.Poll(absl::Seconds(1));
  RemoveClusterState();
  WriteOut("stopping: requests in flight finish first (Ctrl-C again: at once)\n");
  cluster.Stop();
  WriteOut("stopped\n");
  return absl::OkStatus();
}

}  // namespace

int UpCommand(const std::vector<std::string>& words) {
  ClusterFlags flags;
  flags.gateway_port = 8001;
  flags.http_port = 8000;
  flags.metrics_port = 8002;
  Options options("up", "",
                  "Starts a gateway, a tokenizer service and replicas x tensor_parallel workers on "
                  "this host, restarts\nwhat ends, and stops everything in order on Ctrl-C or "
                  "SIGTERM. Logs go to standard error.");
  flags.AddTo(&options);
  options.Add("triton_model_repository", &flags.triton_model_repository,
              "model repository of a Triton server with LLaMA on FasterTransformer, to be served "
              "in its place");
  options.Add("triton_model_control_mode", &flags.triton_model_control_mode,
              "none (default) or explicit: clients load and unload the model, in the workers' "
              "memory too");
  options.Add("triton_load_models", &flags.triton_load_models,
              "with explicit control: models that are loaded at the start, separated by commas; "
              "* = all");
  options.ParseOrExit(words);
  if (const absl::Status status = flags.TakeTritonRepository(); !status.ok()) {
    return Report("up", status);
  }
  const ClusterOptions cluster_options = flags.MakeOrExit(options);
  ProgressLine progress;
  LogSink log(flags.log_dir.empty() ? LogSink::To::kStandardError : LogSink::To::kFolder,
              flags.log_dir, &progress);
  if (const absl::Status status = log.Open(); !status.ok()) return Report("up", status);
  return Report("up", RunCluster(cluster_options, &log, &progress));
}

}  // namespace caravan
