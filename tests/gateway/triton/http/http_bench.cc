// What Triton's HTTP door costs beside the native API: a real gateway between a fake worker and a
// fake tokenizer, all in this process, and so many streams at once.
//
//   gateway_triton_http_bench [--streams=100,1000] [--tokens=100] [--step_ms=0] [--rounds=5]
//
// The worker answers each step with one token for every request, at most once every step_ms.
// Streams: of the native Generate; of generate_stream with new text in each event (stream_delta);
// and of generate_stream as the succeeded system had it: the whole text, every five tokens.
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "common/flags.h"
#include "common/log.h"
#include "tests/gateway/gateway_cluster.h"

ABSL_FLAG(std::vector<std::string>, streams, (std::vector<std::string>{"100", "1000"}),
          "Concurrent requests, one round each.");
ABSL_FLAG(int, tokens, 100, "Tokens of each request.");
ABSL_FLAG(int, rounds, 5, "Rounds of each kind, by turns; the medians are reported.");
ABSL_FLAG(int, step_ms, 0, "Least time between two steps of the fake worker.");

namespace caravan {
namespace {

using Clock = std::chrono::steady_clock;

// One native stream, read to its end.
class NativeClient : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  NativeClient(v1::Generation::Stub* stub, std::atomic<int>* running, int tokens)
      : running_(running) {
    request_ = TextRequest("hello", static_cast<uint32_t>(tokens));
    request_.mutable_output()->set_token_ids(false);
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (ok) StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    CARAVAN_CHECK(status.ok(), status.error_message());
    --*running_;
    running_->notify_all();
  }

 private:
  std::atomic<int>* const running_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
};

// All SSE streams on one thread.
class SseClients {
 public:
  SseClients(int port, int streams, const std::string& body) : epoll_(epoll_create1(0)) {
    const std::string request = absl::StrCat(
        "POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Length: ",
        body.size(), "\r\n\r\n", body);
    for (int i = 0; i < streams; ++i) {
      const int fd = socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address = {};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<uint16_t>(port));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      CARAVAN_CHECK(fd >= 0 &&
                    connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
      CARAVAN_CHECK(send(fd, request.data(), request.size(), 0) ==
                    static_cast<ssize_t>(request.size()));
      epoll_event event = {.events = EPOLLIN, .data = {.u32 = static_cast<uint32_t>(i)}};
      CARAVAN_CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0);
      fds_.push_back(fd);
    }
    tails_.resize(fds_.size());
  }
  ~SseClients() { close(epoll_); }

  // Until all streams have ended as they should.
  void Run() {
    std::vector<epoll_event> events(256);
    for (size_t left = fds_.size(); left > 0;) {
      const int n = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 60000);
      CARAVAN_CHECK(n > 0, "the streams stopped");
      for (int i = 0; i < n; ++i) left -= Read(events[static_cast<size_t>(i)].data.u32) ? 0 : 1;
    }
  }
  int64_t num_events() const { return num_events_; }

 private:
  bool Read(uint32_t i) {
    char buffer[64 << 10];
    const ssize_t received = recv(fds_[i], buffer, sizeof(buffer), 0);
    if (received > 0) {
      const std::string_view text(buffer, static_cast<size_t>(received));
      for (size_t at = text.find("data: "); at != std::string_view::npos;
           at = text.find("data: ", at + 1)) {
        ++num_events_;
      }
      tails_[i] = text.substr(text.size() - std::min<size_t>(text.size(), 200));
      CARAVAN_CHECK(text.find("\"error\"") == std::string_view::npos, tails_[i]);
      return true;
    }
    CARAVAN_CHECK(absl::EndsWith(tails_[i], "0\r\n\r\n"), "a stream broke off: ", tails_[i]);
    close(fds_[i]);
    return false;
  }

  const int epoll_;
  std::vector<int> fds_;
  std::vector<std::string> tails_;  // the last bytes of each
  int64_t num_events_ = 0;
};

// All submits in, then step by step a token for each.
void RunWorker(Cluster* cluster, int streams, int tokens) {
  std::vector<uint64_t> keys;
  for (int i = 0; i < streams; ++i) keys.push_back(cluster->worker().AwaitSubmit().key());
  const auto pause = std::chrono::milliseconds(absl::GetFlag(FLAGS_step_ms));
  for (int step = 0; step < tokens; ++step) {
    const auto now = Clock::now();
    v1::WorkerSessionResponse message = cluster->worker().Response();
    for (const uint64_t key : keys) {
      v1::WorkerTokenEvent* event = message.mutable_events()->add_events();
      event->set_key(key);
      event->set_first_position(static_cast<uint32_t>(step));
      event->add_token_ids(WordId(step % 3));
      if (step + 1 == tokens) event->set_finish(v1::WorkerTokenEvent::LENGTH);
    }
    cluster->worker().Send(message);
    std::this_thread::sleep_until(now + pause);
  }
}

double TokensPerSecond(int streams, Clock::time_point start) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return streams * absl::GetFlag(FLAGS_tokens) / seconds;
}

double RunNative(Cluster* cluster, int streams) {
  const int tokens = absl::GetFlag(FLAGS_tokens);
  std::atomic<int> running = streams;
  std::vector<std::unique_ptr<NativeClient>> clients;
  const auto start = Clock::now();
  std::thread worker([&] { RunWorker(cluster, streams, tokens); });
  for (int i = 0; i < streams; ++i) {
    clients.push_back(std::make_unique<NativeClient>(cluster->stub(), &running, tokens));
  }
  for (int left = running; left > 0; left = running) running.wait(left);
  const double rate = TokensPerSecond(streams, start);
  worker.join();
  return rate;
}

double RunSse(Cluster* cluster, int streams, bool delta, double* events_a_stream) {
  const int tokens = absl::GetFlag(FLAGS_tokens);
  const std::string body = delta ? absl::StrCat(R"({"text_input":"hello","max_tokens":)", tokens,
                                                R"(,"stream":true,"stream_delta":true})")
                                 : absl::StrCat(R"({"INPUT_0":"hello","INPUT_1":)", tokens,
                                                R"(,"INPUT_2":"","INPUT_3":""})");
  const auto start = Clock::now();
  std::thread worker([&] { RunWorker(cluster, streams, tokens); });
  SseClients clients(cluster->gateway().http_port(), streams, body);
  clients.Run();
  const double rate = TokensPerSecond(streams, start);
  worker.join();
  *events_a_stream = static_cast<double>(clients.num_events()) / streams;
  return rate;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void Run() {
  LogOptions log;
  log.level = LogLevel::kWarning;
  InitLog(log);
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  GatewayConfig every_token;
  every_token.triton.stream_interval = 1;
  Cluster fine(every_token, {options});
  Cluster seed({}, {options});
  for (const std::string& text : absl::GetFlag(FLAGS_streams)) {
    int streams = 0;
    CARAVAN_CHECK(absl::SimpleAtoi(text, &streams) && streams > 0, "--streams: ", text);
    std::vector<double> natives;
    std::vector<double> deltas;
    std::vector<double> wholes;
    double delta_events = 0;
    double seed_events = 0;
    for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
      natives.push_back(RunNative(&fine, streams));
      deltas.push_back(RunSse(&fine, streams, /*delta=*/true, &delta_events));
      wholes.push_back(RunSse(&seed, streams, /*delta=*/false, &seed_events));
    }
    const double native = Median(natives);
    const double delta = Median(deltas);
    const double whole = Median(wholes);
    std::printf(
        "%6d streams: native %8.0f tokens/s; SSE, new text %8.0f (%.2f of native, %.0f events "
        "each); SSE, whole text %8.0f (%.2f of native, %.0f events each)\n",
        streams, native, delta, delta / native, delta_events, whole, whole / native, seed_events);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace caravan

int main(int argc, char** argv) {
  caravan::ParseFlags("Times Triton's HTTP door between fakes.", argc, argv);
  caravan::Run();
}
