// caravan demo: a cluster on the bundled model, one story, and what ran where.
#include <atomic>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/cluster.h"
#include "cli/cluster_flags.h"
#include "cli/commands.h"
#include "cli/generation_client.h"
#include "cli/log_sink.h"
#include "cli/options.h"
#include "cli/supervisor.h"
#include "cli/terminal.h"
#include "common/server.h"

namespace caravan {
namespace {

struct DemoOptions {
  std::string prompt = "Once upon a time, there was a little girl named Matilda";
  int64_t max_tokens = 400;
  double temperature = 0.7;
  uint64_t seed = 1;
};

v1::GenerateRequest MakeRequest(const DemoOptions& demo) {
  v1::GenerateRequest request;
  request.add_prompt()->set_text(demo.prompt);
  request.mutable_sampling()->set_temperature(static_cast<float>(demo.temperature));
  request.mutable_sampling()->set_seed(demo.seed);
  request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(demo.max_tokens));
  request.mutable_output()->set_echo_prompt(true);
  return request;
}

// The supervisor's thread goes on supervising while another one speaks to the gateway.
absl::StatusOr<GenerationResult> TellStory(const std::string& gateway, const DemoOptions& demo,
                                           Supervisor* supervisor) {
  GenerationClient client(MakeChannel(gateway), RetryOptions{});
  absl::StatusOr<GenerationResult> result = absl::UnknownError("");
  std::atomic<bool> done = false;
  std::thread speaker([&] {
    result = client.Generate(MakeRequest(demo), [](const v1::GenerateResponse& event) {
      return !event.has_tokens() || WriteOut(event.tokens().text());
    });
    done = true;
  });
  while (!done) {
    supervisor->Poll(absl::Milliseconds(20));
    if (supervisor->stop_requested()) client.Cancel();
  }
  speaker.join();
  WriteOut("\n\n");
  return result;
}

void PrintWhatRan(const Cluster& cluster, const GenerationResult& result) {
  WriteOut(absl::StrFormat(
      "%d tokens at %.1f tokens/s, the first after %.0f ms (prompt of %d tokens)\n\n",
      static_cast<int>(result.token_ids.size()), result.tokens_per_second(),
      absl::ToDoubleMilliseconds(result.first_token_at - result.sent_at),
      result.started.prompt_tokens()));
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "PID", "GRPC", "METRICS", "MEMORY"}};
  for (const Cluster::Member& member : cluster.Members()) {
    rows.push_back({member.name, absl::StrCat(member.pid), member.address,
                    absl::StrCat("http://", member.metrics_address, "/metrics"),
                    FormatBytes(member.memory_bytes)});
  }
  WriteOut(FormatTable(rows));
}

absl::Status RunDemo(const ClusterOptions& options, const DemoOptions& demo, LogSink* log,
                     ProgressLine* progress) {
  Supervisor supervisor(
      [log](const std::string& name, const std::string& line) { log->Write(name, line); });
  Cluster cluster(options, &supervisor);
  WriteOut(absl::StrFormat("Starting a gateway, a tokenizer and %d workers on %s ...\n",
                           options.replicas * options.tensor_parallel, options.model));
  const absl::Time started = absl::Now();
  absl::Status status = cluster.Start(
      [progress](const LoadProgress& load) { progress->Update("loading", load.fraction, ""); });
  progress->Clear();
  if (status.ok()) {
    WriteOut(
        absl::StrFormat("Ready after %.1f s.\n\n", absl::ToDoubleSeconds(absl::Now() - started)));
    const absl::StatusOr<GenerationResult> result =
        TellStory(cluster.gateway_address(), demo, &supervisor);
    status = result.status();
    if (status.ok()) PrintWhatRan(cluster, *result);
  }
  cluster.Stop();
  if (status.ok())
    WriteOut("\nAll stopped. `caravan up --model DIR` serves a model of your own.\n");
  return status;
}

}  // namespace

int DemoCommand(const std::vector<std::string>& words) {
  ClusterFlags flags;
  flags.model = absl::StrCat(RepositoryFolder(), "/models/demo");
  flags.tensor_parallel = 2;
  flags.device = "cpu";  // two workers run on every machine, and the model is small
  DemoOptions demo;
  int64_t seed = static_cast<int64_t>(demo.seed);
  bool verbose = false;
  Options options("demo", "",
                  "Starts a cluster on the bundled model with free ports, streams a story through "
                  "its gateway, shows\nwhat ran where, and stops everything.");
  options.Add("prompt", &demo.prompt, "how the story starts");
  options.Add("max_tokens", &demo.max_tokens, "tokens to generate at most");
  options.Add("temperature", &demo.temperature, "0 = greedy");
  options.Add("seed", &seed, "another one gives another story");
  options.Add("verbose", &verbose, "show the processes' logs");
  flags.AddTo(&options);
  options.ParseOrExit(words);
  demo.seed = static_cast<uint64_t>(seed);
  if (demo.max_tokens < 1 || demo.max_tokens > 1 << 20) {
    options.Fail(
        absl::StrCat("--max_tokens is ", demo.max_tokens, "; it must be from 1 to ", 1 << 20));
  }
  const ClusterOptions cluster_options = flags.MakeOrExit(options);
  ProgressLine progress;
  const LogSink::To to = !flags.log_dir.empty() ? LogSink::To::kFolder
                         : verbose              ? LogSink::To::kStandardError
                                                : LogSink::To::kNowhere;
  LogSink log(to, flags.log_dir, &progress);
  if (const absl::Status status = log.Open(); !status.ok()) return Report("demo", status);
  return Report("demo", RunDemo(cluster_options, demo, &log, &progress));
}

}  // namespace caravan
