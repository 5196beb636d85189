// What Triton's door costs beside the native one: both between a fake worker and a fake tokenizer,
// all in this process, in turns.
//
//   gateway_triton_bench [--streams=100] [--tokens=100] [--rounds=5] [--interval=5]
//                        [--step_ms=5] [--door=native|triton]
//
// Each round sends `streams` requests at once, each on a stream of its own; the worker answers each
// step with one message of one token for every request, at most once every step_ms (0: as fast as
// it can, where the native door merges what its clients have not read yet). Reported for each door:
// tokens/s over all streams and the process' CPU time a token (clients and fakes included), the
// median round; and the median of the rounds' ratios, which what else runs on the machine disturbs
// least. `interval` is Triton's cadence: 1 makes a response of the whole text a token. `door`: that
// one alone, for a profiler.
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "common/flags.h"
#include "common/log.h"
#include "inference/grpc_service.grpc.pb.h"
#include "tests/gateway/gateway_cluster.h"

ABSL_FLAG(int, streams, 100, "Concurrent requests.");
ABSL_FLAG(int, tokens, 100, "Tokens of each request.");
ABSL_FLAG(int, step_ms, 5, "Least time between two steps of the fake worker.");
ABSL_FLAG(int, rounds, 5, "Rounds for each door.");
ABSL_FLAG(int, interval, 5, "Tokens between two partial responses of Triton's door.");
ABSL_FLAG(std::string, door, "", "Only this one: native or triton.");

namespace caravan {
namespace {

using Clock = std::chrono::steady_clock;

// What both kinds of clients share: they count down when their stream has ended.
struct Running {
  explicit Running(int count) : left(count) {}
  void End(const grpc::Status& status) {
    CARAVAN_CHECK(status.ok(), status.error_message());
    --left;
    left.notify_all();
  }
  void AwaitAll() {
    for (int seen = left; seen > 0; seen = left) left.wait(seen);
  }
  std::atomic<int> left;
};

class NativeClient : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  NativeClient(v1::Generation::Stub* stub, Running* running) : running_(running) {
    request_ = TextRequest("hello", static_cast<uint32_t>(absl::GetFlag(FLAGS_tokens)));
    request_.mutable_output()->set_echo_prompt(true);
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (ok) StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override { running_->End(status); }

 private:
  Running* const running_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
};

void AddInput(const char* name, const char* datatype, const std::string& raw,
              inference::ModelInferRequest* request) {
  auto* input = request->add_inputs();
  input->set_name(name);
  input->set_datatype(datatype);
  input->add_shape(1);
  input->add_shape(1);
  request->add_raw_input_contents(raw);
}

class TritonClient : public grpc::ClientBidiReactor<inference::ModelInferRequest,
                                                    inference::ModelStreamInferResponse> {
 public:
  TritonClient(inference::GRPCInferenceService::Stub* stub, Running* running) : running_(running) {
    const auto tokens = static_cast<uint32_t>(absl::GetFlag(FLAGS_tokens));
    request_.set_model_name("ensemble");
    AddInput("INPUT_0", "BYTES", std::string("\5\0\0\0hello", 9), &request_);
    AddInput("INPUT_1", "UINT32",
             std::string(reinterpret_cast<const char*>(&tokens), sizeof(tokens)), &request_);
    AddInput("INPUT_2", "BYTES", std::string(4, '\0'), &request_);
    AddInput("INPUT_3", "BYTES", std::string(4, '\0'), &request_);
    (*request_.mutable_parameters())["stream_interval"].set_int64_param(
        absl::GetFlag(FLAGS_interval));
    stub->async()->ModelStreamInfer(&context_, this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    CARAVAN_CHECK(response_.error_message().empty(), response_.error_message());
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override { running_->End(status); }

 private:
  Running* const running_;
  grpc::ClientContext context_;
  inference::ModelInferRequest request_;
  inference::ModelStreamInferResponse response_;
};

// All submits in, then step by step a token for each.
void RunWorker(Cluster* cluster, int streams) {
  std::vector<uint64_t> keys;
  for (int i = 0; i < streams; ++i) keys.push_back(cluster->worker().AwaitSubmit().key());
  const int steps = absl::GetFlag(FLAGS_tokens);
  const auto pause = std::chrono::milliseconds(absl::GetFlag(FLAGS_step_ms));
  auto next = Clock::now();
  for (int step = 0; step < steps; ++step) {
    std::this_thread::sleep_until(next);
    next += pause;
    v1::WorkerSessionResponse message = cluster->worker().Response();
    for (const uint64_t key : keys) {
      v1::WorkerTokenEvent* event = message.mutable_events()->add_events();
      event->set_key(key);
      event->set_first_position(static_cast<uint32_t>(step));
      event->add_token_ids(WordId(step % 3));
      if (step + 1 == steps) event->set_finish(v1::WorkerTokenEvent::LENGTH);
    }
    cluster->worker().Send(message);
  }
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Cost {
  double wall_us_per_token = 0;
  double cpu_us_per_token = 0;
};

template <typename Client, typename Stub>
Cost RunRound(Cluster* cluster, Stub* stub) {
  const int streams = absl::GetFlag(FLAGS_streams);
  Running running(streams);
  const auto start = Clock::now();
  const double cpu = CpuSeconds();
  std::thread worker([&] { RunWorker(cluster, streams); });
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < streams; ++i) clients.push_back(std::make_unique<Client>(stub, &running));
  running.AwaitAll();
  worker.join();
  const double tokens = static_cast<double>(streams) * absl::GetFlag(FLAGS_tokens);
  return {std::chrono::duration<double, std::micro>(Clock::now() - start).count() / tokens,
          (CpuSeconds() - cpu) * 1e6 / tokens};
}

Cost Median(std::vector<Cost> costs) {
  const size_t middle = costs.size() / 2;
  std::sort(costs.begin(), costs.end(),
            [](const Cost& a, const Cost& b) { return a.wall_us_per_token < b.wall_us_per_token; });
  const double wall = costs[middle].wall_us_per_token;
  std::sort(costs.begin(), costs.end(),
            [](const Cost& a, const Cost& b) { return a.cpu_us_per_token < b.cpu_us_per_token; });
  return {wall, costs[middle].cpu_us_per_token};
}

void Print(const char* door, const Cost& cost) {
  std::printf("%-7s %9.0f tokens/s, %6.2f us CPU a token\n", door, 1e6 / cost.wall_us_per_token,
              cost.cpu_us_per_token);
}

void Run() {
  LogOptions log;
  log.level = LogLevel::kWarning;
  InitLog(log);
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster({}, {options});
  cluster.AwaitReady(1);
  const auto channel = MakeChannel(absl::StrCat("127.0.0.1:", cluster.gateway().port()));
  const auto triton = inference::GRPCInferenceService::NewStub(channel);
  const std::string door = absl::GetFlag(FLAGS_door);
  std::vector<Cost> native_costs;
  std::vector<Cost> triton_costs;
  std::vector<Cost> ratios;
  for (int round = 0; round <= absl::GetFlag(FLAGS_rounds); ++round) {
    Cost native;
    Cost with_triton;
    if (door != "triton") native = RunRound<NativeClient>(&cluster, cluster.stub());
    if (door != "native") with_triton = RunRound<TritonClient>(&cluster, triton.get());
    if (round == 0) continue;  // connections are made
    native_costs.push_back(native);
    triton_costs.push_back(with_triton);
    ratios.push_back({with_triton.wall_us_per_token / native.wall_us_per_token,
                      with_triton.cpu_us_per_token / native.cpu_us_per_token});
  }
  if (door != "triton") Print("native", Median(native_costs));
  if (door != "native") Print("triton", Median(triton_costs));
  if (!door.empty()) return;
  const Cost ratio = Median(ratios);
  std::printf("triton / native: %.2f of the time, %.2f of the CPU time a token\n",
              ratio.wall_us_per_token, ratio.cpu_us_per_token);
}

}  // namespace
}  // namespace caravan

int main(int argc, char** argv) {
  caravan::ParseFlags("Times the Triton door beside the native one.", argc, argv);
  CARAVAN_CHECK(absl::GetFlag(FLAGS_streams) > 0 && absl::GetFlag(FLAGS_tokens) > 0 &&
                absl::GetFlag(FLAGS_rounds) > 0);
  const std::string door = absl::GetFlag(FLAGS_door);
  CARAVAN_CHECK(door.empty() || door == "native" || door == "triton", door);
  caravan::Run();
}
