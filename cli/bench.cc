// caravan bench: how a running cluster behaves under load.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/cluster_state.h"
#include "cli/commands.h"
#include "cli/load_generator.h"
#include "cli/load_report.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "common/regular_file.h"
#include "common/server.h"
#include "common/shutdown_signal.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace caravan {
namespace {

constexpr absl::Duration kListTimeout = absl::Seconds(5);
constexpr int kMostTokens = 1 << 24;

struct BenchOptions {
  std::string address;
  std::string model;
  int64_t concurrency = 8;
  double rate = 0;
  int64_t num_requests = 100;
  int64_t warmup = 2;
  std::string prompt_tokens = "128";
  std::string output_tokens = "64";
  bool ignore_eos = true;
  bool text = true;
  double temperature = 1;
  int64_t seed = 1;
  int64_t connections = 1;
  std::string json;
};

// "64" or "32:128".
TokenRange ParseRangeOrExit(const Options& options, const std::string& name,
                            const std::string& text) {
  const std::vector<std::string> ends = absl::StrSplit(text, ':');
  TokenRange range;
  if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &range.least) ||
      !absl::SimpleAtoi(ends.back(), &range.most) || range.least < 1 || range.most < range.least ||
      range.most > kMostTokens) {
    options.Fail(absl::StrCat("--", name, " is '", text,
                              "'; it must be a number of tokens, or a range such as 32:128"));
  }
  return range;
}

// Fills in the model's name and vocabulary from what the gateway serves.
absl::Status FindModel(const std::shared_ptr<grpc::Channel>& channel, LoadOptions* load) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kListTimeout));
  v1::ListModelsResponse response;
  const grpc::Status status = v1::Generation::NewStub(channel)->ListModels(&context, {}, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  for (const v1::ModelInfo& model : response.models()) {
    if (!load->model.empty() && load->model != model.name()) continue;
    load->model = model.name();
    load->vocabulary_size = static_cast<int>(model.vocabulary_size());
    return absl::OkStatus();
  }
  return absl::NotFoundError(load->model.empty()
                                 ? "the gateway serves no model yet"
                                 : absl::StrCat("the gateway serves no model ", load->model));
}

struct LoadOutcome {
  LoadReport report;
  bool interrupted = false;  // then of what ended before
};

LoadOutcome RunLoad(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                    const LoadOptions& load, const std::string& label) {
  ShutdownSignal signal;
  LoadGenerator generator(channels, load);
  std::atomic<bool> interrupted = false;
  std::thread interrupt([&] {
    if (signal.Wait() == 0) return;
    interrupted = true;
    generator.Cancel();
  });
  ProgressLine progress;
  const absl::Time started = absl::Now();
  const std::vector<RequestRecord> records = generator.Run([&](const LoadProgressCounts& counts) {
    const double seconds = absl::ToDoubleSeconds(absl::Now() - started);
    progress.Update(
        label, static_cast<double>(counts.finished) / load.num_requests,
        absl::StrFormat("%d of %d requests, %d running, %d failed, %.0f tokens/s", counts.finished,
                        load.num_requests, counts.started - counts.finished, counts.failed,
                        seconds > 0 ? counts.output_tokens / seconds : 0));
  });
  progress.Clear();
  signal.Trigger();
  interrupt.join();
  return {MakeReport(records), interrupted};
}

absl::Status WriteReport(const LoadReport& report, const LoadOptions& load,
                         const std::string& json) {
  if (json == "-") {
    WriteOut(ReportToJson(report, load).dump(2) + "\n");
  } else {
    WriteOut(FormatReport(report));
  }
  if (json.empty() || json == "-") return absl::OkStatus();
  std::ofstream file(json);
  file << ReportToJson(report, load).dump(2) << '\n';
  file.close();
  if (!file) return absl::PermissionDeniedError("can't write --json=" + json);
  return absl::OkStatus();
}

absl::Status RunBench(const BenchOptions& flags, LoadOptions load) {
  const ShutdownSignal blocked_before_threads_start;
  std::error_code error;
  const bool is_stream = flags.json == "-" || std::filesystem::is_other(flags.json, error);
  if (!flags.json.empty() && !is_stream) {  // not after minutes of load
    if (const absl::Status status = CheckWritableFile(flags.json); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("--json: ", status.message()));
    }
  }
  const std::string address = ResolveGatewayAddress(flags.address);
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int64_t i = 0; i < flags.connections; ++i) channels.push_back(MakeChannel(address));
  RETURN_IF_ERROR(FindModel(channels[0], &load));
  if (flags.warmup > 0) {
    LoadOptions warmup = load;
    warmup.num_requests = static_cast<int>(flags.warmup);
    warmup.seed = ~load.seed;
    if (RunLoad(channels, warmup, "warming up").interrupted) {
      return absl::CancelledError("interrupted");
    }
  }
  const auto [report, interrupted] = RunLoad(channels, load, "bench");
  RETURN_IF_ERROR(WriteReport(report, load, flags.json));
  if (interrupted) return absl::CancelledError("interrupted");
  return report.failed == 0 ? absl::OkStatus()
                            : absl::AbortedError(absl::StrCat(report.failed, " requests failed"));
}

void CheckOrExit(const BenchOptions& flags, const Options& options) {
  const struct {
    const char* name;
    int64_t value;
    int64_t least;
    int64_t most;
  } numbers[] = {{"concurrency", flags.concurrency, 1, 100000},
                 {"num_requests", flags.num_requests, 1, 100000000},
                 {"warmup", flags.warmup, 0, 100000000},
                 {"connections", flags.connections, 1, 1000}};
  for (const auto& number : numbers) {
    if (number.value < number.least || number.value > number.most) {
      options.Fail(absl::StrCat("--", number.name, " is ", number.value, "; it must be from ",
                                number.least, " to ", number.most));
    }
  }
  if (!(flags.rate >= 0 && flags.rate <= 1e6)) {
    options.Fail(absl::StrCat("--rate is ", flags.rate, "; it must be from 0 to 1000000"));
  }
}

}  // namespace

int BenchCommand(const std::vector<std::string>& words) {
  BenchOptions flags;
  Options options("bench", "",
                  "Sends requests with random prompts to a running cluster, at a fixed concurrency "
                  "or at a rate\n(Poisson arrivals), and reports latency percentiles and "
                  "throughput; after Ctrl-C, of\nwhat has ended by then.");
  options.Add("address", &flags.address,
              "host:port of a gateway; the running cluster's if not given, else localhost:8001");
  options.Add("model", &flags.model, "name of the model; the first served if not given");
  options.Add("concurrency", &flags.concurrency, "requests in flight at once");
  options.Add("rate", &flags.rate, "requests a second in place of a fixed concurrency");
  options.Add("num_requests", &flags.num_requests, "requests to send");
  options.Add("warmup", &flags.warmup, "requests before them that are not counted");
  options.Add("prompt_tokens", &flags.prompt_tokens, "of each prompt: N, or a range N:M");
  options.Add("output_tokens", &flags.output_tokens, "of each answer: N, or a range N:M");
  options.Add("ignore_eos", &flags.ignore_eos, "generate all output_tokens; --noignore_eos");
  options.Add("text", &flags.text, "ask for text; --notext asks for token ids alone");
  options.Add("temperature", &flags.temperature, "0 = greedy");
  options.Add("seed", &flags.seed, "of arrivals, lengths and prompts");
  options.Add("connections", &flags.connections, "connections to spread the requests over");
  options.Add("json", &flags.json, "file for the results as JSON; - = standard output");
  options.ParseOrExit(words);
  options.CheckAddressOrExit("address", flags.address);
  CheckOrExit(flags, options);
  LoadOptions load;
  load.model = flags.model;
  load.concurrency = static_cast<int>(flags.concurrency);
  load.rate = flags.rate;
  load.num_requests = static_cast<int>(flags.num_requests);
  load.prompt_tokens = ParseRangeOrExit(options, "prompt_tokens", flags.prompt_tokens);
  load.output_tokens = ParseRangeOrExit(options, "output_tokens", flags.output_tokens);
  load.ignore_eos = flags.ignore_eos;
  load.text = flags.text;
  load.temperature = flags.temperature;
  load.seed = static_cast<uint64_t>(flags.seed);
  return Report("bench", RunBench(flags, load));
}

}  // namespace caravan
