// What the gateway costs: a real one between a fake worker and a fake tokenizer, all in this
// process, at 1, 100 and 1000 streams.
//
//   gateway_bench [--streams=1,100,1000] [--tokens=100] [--step_ms=0] [--session]
//
// Each round sends `streams` requests at once; the worker answers each step with one message of one
// token for every request, at most once every step_ms. Reported: tokens/s over all streams, the
// time from the worker's message to the client's read (the gateway's and the tokenizer's share of
// inter-token time), and the time from the client's call to the worker's submit.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "common/flags.h"
#include "common/log.h"
#include "tests/gateway/gateway_cluster.h"

ABSL_FLAG(std::vector<std::string>, streams, (std::vector<std::string>{"1", "100", "1000"}),
          "Concurrent requests, one round each.");
ABSL_FLAG(int, tokens, 100, "Tokens of each request.");
ABSL_FLAG(int, step_ms, 0, "Least time between two steps of the fake worker.");
ABSL_FLAG(bool, session, false, "One Session for all requests in place of a Generate for each.");

namespace caravan {
namespace {

using Clock = std::chrono::steady_clock;

double Percentile(std::vector<double>* values, double share) {
  if (values->empty()) return 0;
  std::sort(values->begin(), values->end());
  return (*values)[static_cast<size_t>(share * static_cast<double>(values->size() - 1))];
}

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// When each step was sent, for the clients to subtract.
struct Round {
  std::vector<std::atomic<Clock::rep>> sent;
  std::mutex mutex;
  std::vector<double> token_microseconds;
  std::vector<double> submit_microseconds;

  explicit Round(int steps) : sent(static_cast<size_t>(steps)) {}
  void Add(const std::vector<double>& tokens) {
    const std::lock_guard<std::mutex> lock(mutex);
    token_microseconds.insert(token_microseconds.end(), tokens.begin(), tokens.end());
  }
  double Age(uint32_t position) const {
    return MicrosecondsSince(Clock::time_point(Clock::duration(sent[position].load())));
  }
};

// One client: reads all of its stream. With 1000 of them blocking threads would be measured, so the
// clients are reactors.
class Client : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Client(v1::Generation::Stub* stub, Round* round, std::atomic<int>* running, int tokens)
      : round_(round), running_(running) {
    request_ = TextRequest("hello", static_cast<uint32_t>(tokens));
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.has_tokens()) {
      const v1::TokenEvent& event = response_.tokens();
      for (uint32_t i = 0; i < event.num_tokens(); ++i) {
        ages_.push_back(round_->Age(event.first_position() + i));
      }
    }
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    CARAVAN_CHECK(status.ok(), status.error_message());
    round_->Add(ages_);
    --*running_;
    running_->notify_all();
  }

 private:
  Round* const round_;
  std::atomic<int>* const running_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  std::vector<double> ages_;
};

// The same over one Session.
void RunSession(Cluster* cluster, Round* round, int streams, int tokens) {
  grpc::ClientContext context;
  auto stream = cluster->stub()->Session(&context);
  std::thread writer([&] {
    for (int i = 0; i < streams; ++i) {
      v1::SessionRequest message;
      *message.mutable_start() = TextRequest("hello", static_cast<uint32_t>(tokens));
      message.mutable_start()->set_request_id(std::to_string(i));
      stream->Write(message);
    }
    stream->WritesDone();
  });
  std::vector<double> ages;
  v1::SessionResponse response;
  while (stream->Read(&response)) {
    if (!response.event().event().has_tokens()) continue;
    const v1::TokenEvent& event = response.event().event().tokens();
    for (uint32_t i = 0; i < event.num_tokens(); ++i) {
      ages.push_back(round->Age(event.first_position() + i));
    }
  }
  writer.join();
  CARAVAN_CHECK(stream->Finish().ok());
  round->Add(ages);
}

// The worker's part: all submits in, then step by step a token for each.
void RunWorker(Cluster* cluster, Round* round, int streams, Clock::time_point start) {
  std::vector<uint64_t> keys;
  for (int i = 0; i < streams; ++i) {
    keys.push_back(cluster->worker().AwaitSubmit().key());
    round->submit_microseconds.push_back(MicrosecondsSince(start));
  }
  const auto pause = std::chrono::milliseconds(absl::GetFlag(FLAGS_step_ms));
  const size_t steps = round->sent.size();
  for (size_t step = 0; step < steps; ++step) {
    const auto now = Clock::now();
    v1::WorkerSessionResponse message = cluster->worker().Response();
    for (const uint64_t key : keys) {
      v1::WorkerTokenEvent* event = message.mutable_events()->add_events();
      event->set_key(key);
      event->set_first_position(static_cast<uint32_t>(step));
      event->add_token_ids(WordId(static_cast<int>(step) % 3));
      if (step + 1 == steps) event->set_finish(v1::WorkerTokenEvent::LENGTH);
    }
    round->sent[step] = now.time_since_epoch().count();
    cluster->worker().Send(message);
    std::this_thread::sleep_until(now + pause);
  }
}

void RunRound(Cluster* cluster, int streams) {
  const int tokens = absl::GetFlag(FLAGS_tokens);
  Round round(tokens);
  std::atomic<int> running = streams;
  std::vector<std::unique_ptr<Client>> clients;
  const auto start = Clock::now();
  std::thread worker([&] { RunWorker(cluster, &round, streams, start); });
  if (absl::GetFlag(FLAGS_session)) {
    RunSession(cluster, &round, streams, tokens);
  } else {
    for (int i = 0; i < streams; ++i) {
      clients.push_back(std::make_unique<Client>(cluster->stub(), &round, &running, tokens));
    }
    for (int left = running; left > 0; left = running) running.wait(left);
  }
  worker.join();
  const double seconds = MicrosecondsSince(start) / 1e6;
  std::printf(
      "%7d streams: %9.0f tokens/s, token p50 %7.0f us p99 %7.0f us, submit p50 %7.0f us "
      "p99 %7.0f us\n",
      streams, streams * tokens / seconds, Percentile(&round.token_microseconds, 0.5),
      Percentile(&round.token_microseconds, 0.99), Percentile(&round.submit_microseconds, 0.5),
      Percentile(&round.submit_microseconds, 0.99));
  std::fflush(stdout);
}

void Run() {
  LogOptions log;
  log.level = LogLevel::kWarning;
  InitLog(log);
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster({}, {options});
  for (const std::string& text : absl::GetFlag(FLAGS_streams)) {
    int streams = 0;
    CARAVAN_CHECK(absl::SimpleAtoi(text, &streams) && streams > 0, "--streams: ", text);
    RunRound(&cluster, streams);
  }
}

}  // namespace
}  // namespace caravan

int main(int argc, char** argv) {
  caravan::ParseFlags("Times the gateway between fakes.", argc, argv);
  caravan::Run();
}
