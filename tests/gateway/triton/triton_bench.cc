// What Triton's door costs beside the native one: both between a fake worker and a fake tokenizer,
// in turns. The gateway is a process of its own, so that its processor time can be told from that
// of the fakes and of the clients, which are in this one.
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
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_split.h"
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
void RunWorker(FakeWorker* worker, int streams) {
  std::vector<uint64_t> keys;
  for (int i = 0; i < streams; ++i) keys.push_back(worker->AwaitSubmit().key());
  const int steps = absl::GetFlag(FLAGS_tokens);
  const auto pause = std::chrono::milliseconds(absl::GetFlag(FLAGS_step_ms));
  auto next = Clock::now();
  for (int step = 0; step < steps; ++step) {
    std::this_thread::sleep_until(next);
    next += pause;
    v1::WorkerSessionResponse message = worker->Response();
    for (const uint64_t key : keys) {
      v1::WorkerTokenEvent* event = message.mutable_events()->add_events();
      event->set_key(key);
      event->set_first_position(static_cast<uint32_t>(step));
      event->add_token_ids(WordId(step % 3));
      if (step + 1 == steps) event->set_finish(v1::WorkerTokenEvent::LENGTH);
    }
    worker->Send(message);
  }
}

void MuteLog() {
  LogOptions log;
  log.level = LogLevel::kWarning;
  InitLog(log);
}

// A gateway in a process of its own.
class GatewayProcess {
 public:
  // REQUIRES: nothing of gRPC was used in this process yet.
  GatewayProcess() {
    CARAVAN_CHECK(pipe(to_child_) == 0 && pipe(from_child_) == 0);
    child_ = fork();
    CARAVAN_CHECK(child_ >= 0);
    if (child_ == 0) Serve();
    close(to_child_[0]);
    close(from_child_[1]);
  }
  void Stop() const {
    close(to_child_[1]);  // it ends
    waitpid(child_, nullptr, 0);
  }

  // Returns its port once the worker is ready in its eyes.
  int Start(const std::string& worker, const std::string& tokenizer) const {
    const std::string addresses = absl::StrCat(worker, ",", tokenizer);
    CARAVAN_CHECK(write(to_child_[1], addresses.data(), addresses.size()) > 0);
    int port = 0;
    CARAVAN_CHECK(read(from_child_[0], &port, sizeof(port)) == sizeof(port));
    return port;
  }

  double CpuSeconds() const {
    clockid_t clock = 0;
    timespec time = {};
    CARAVAN_CHECK(clock_getcpuclockid(child_, &clock) == 0 && clock_gettime(clock, &time) == 0);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
  }

 private:
  [[noreturn]] void Serve() const {
    close(to_child_[1]);
    close(from_child_[0]);
    MuteLog();
    char bytes[256];
    const ssize_t size = read(to_child_[0], bytes, sizeof(bytes));
    if (size <= 0) _exit(1);
    const std::pair<std::string, std::string> addresses =
        absl::StrSplit(std::string(bytes, static_cast<size_t>(size)), ',');
    GatewayConfig config;
    config.replicas = {addresses.first};
    config.tokenizers = {addresses.second};
    config.listen_address = config.http_address = "127.0.0.1:0";
    config.metrics_address = "";
    auto gateway = Gateway::Start(config);
    CARAVAN_CHECK(gateway.ok(), std::string(gateway.status().message()));
    Cluster::Await([&] {
      const auto& metrics = (*gateway)->metrics();
      return metrics.replicas_ready.Value() == 1 && metrics.tokenizers_ready.Value() == 1;
    });
    const int port = (*gateway)->port();
    CARAVAN_CHECK(write(from_child_[1], &port, sizeof(port)) == sizeof(port));
    char end = 0;
    _exit(read(to_child_[0], &end, 1) == 0 ? 0 : 1);
  }

  int to_child_[2];
  int from_child_[2];
  pid_t child_ = 0;
};

double SecondsOfThisProcess() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Of a token, in microseconds; or what one door's are to the other's.
struct Cost {
  double wall = 0;
  double gateway_cpu = 0;
  double all_cpu = 0;  // clients and fakes included
};

template <typename Client, typename Stub>
Cost RunRound(const GatewayProcess& gateway, FakeWorker* worker, Stub* stub) {
  const int streams = absl::GetFlag(FLAGS_streams);
  Running running(streams);
  const auto start = Clock::now();
  const double own_cpu = SecondsOfThisProcess();
  const double gateway_cpu = gateway.CpuSeconds();
  std::thread worker_thread([&] { RunWorker(worker, streams); });
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < streams; ++i) clients.push_back(std::make_unique<Client>(stub, &running));
  running.AwaitAll();
  worker_thread.join();
  const double a_token = 1e6 / (static_cast<double>(streams) * absl::GetFlag(FLAGS_tokens));
  Cost cost;
  cost.wall = std::chrono::duration<double>(Clock::now() - start).count() * a_token;
  cost.gateway_cpu = (gateway.CpuSeconds() - gateway_cpu) * a_token;
  cost.all_cpu = cost.gateway_cpu + (SecondsOfThisProcess() - own_cpu) * a_token;
  return cost;
}

Cost Median(const std::vector<Cost>& costs) {
  const auto median = [&costs](double Cost::*member) {
    std::vector<double> values;
    for (const Cost& cost : costs) values.push_back(cost.*member);
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    return values[values.size() / 2];
  };
  return {median(&Cost::wall), median(&Cost::gateway_cpu), median(&Cost::all_cpu)};
}

void Print(const char* door, const Cost& cost) {
  std::printf("%-7s %9.0f tokens/s, CPU a token: gateway %6.2f us, all %6.2f us\n", door,
              1e6 / cost.wall, cost.gateway_cpu, cost.all_cpu);
}

void Run() {
  const GatewayProcess gateway;
  MuteLog();
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  FakeWorker worker(options);
  FakeTokenizer tokenizer;
  const int port = gateway.Start(worker.address(), tokenizer.address());
  const auto channel = MakeChannel(absl::StrCat("127.0.0.1:", port));
  const auto native_stub = v1::Generation::NewStub(channel);
  const auto triton_stub = inference::GRPCInferenceService::NewStub(channel);
  const std::string door = absl::GetFlag(FLAGS_door);
  std::vector<Cost> native_costs;
  std::vector<Cost> triton_costs;
  std::vector<Cost> ratios;
  for (int round = 0; round <= absl::GetFlag(FLAGS_rounds); ++round) {
    Cost native;
    Cost triton;
    if (door != "triton") native = RunRound<NativeClient>(gateway, &worker, native_stub.get());
    if (door != "native") triton = RunRound<TritonClient>(gateway, &worker, triton_stub.get());
    if (round == 0) continue;  // connections are made
    native_costs.push_back(native);
    triton_costs.push_back(triton);
    ratios.push_back({triton.wall / native.wall, triton.gateway_cpu / native.gateway_cpu,
                      triton.all_cpu / native.all_cpu});
  }
  gateway.Stop();
  if (door != "triton") Print("native", Median(native_costs));
  if (door != "native") Print("triton", Median(triton_costs));
  if (!door.empty()) return;
  const Cost ratio = Median(ratios);
  std::printf("triton / native: %.2f of the time, CPU: gateway %.2f, all %.2f\n", ratio.wall,
              ratio.gateway_cpu, ratio.all_cpu);
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
