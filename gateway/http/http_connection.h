// One client's connection. Internal to the server: includes Asio, which is slow to compile.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "gateway/http/content_coding.h"
#include "gateway/http/http_server.h"

namespace caravan {

class HttpConnection;
class HttpParser;

// What the connections of a server share; they keep it alive.
struct HttpServerState {
  HttpServerState(const HttpServerOptions& server_options, HttpHandler* server_handler,
                  HttpMetrics* server_metrics)
      : options(server_options),
        handler(server_handler),
        metrics(server_metrics),
        large_bodies(static_cast<size_t>(server_options.num_large_body_threads)) {
    for (int i = 0; i < options.num_threads; ++i) {
      ios.push_back(std::make_unique<boost::asio::io_context>(1));
    }
  }

  const HttpServerOptions options;
  HttpHandler* const handler;
  HttpMetrics* const metrics;
  std::vector<std::unique_ptr<boost::asio::io_context>> ios;  // one a thread
  boost::asio::thread_pool large_bodies;
  std::atomic<int64_t> body_bytes{0};
  std::atomic<bool> draining{false};

  std::mutex mutex;
  std::condition_variable none_left;
  std::unordered_set<HttpConnection*> connections;  // guarded by mutex, as num_answers
  std::condition_variable answers_ended;
  int num_answers = 0;  // connections that are at one
};

// Lives on the thread of its io_context: everything here but the exchange's calls happens there.
// One read is always under way (unless enough of later requests has been buffered), so that a
// client that leaves is noticed while its request runs. Kept alive by its pending operations and by
// the exchanges it made.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(std::shared_ptr<HttpServerState> server, boost::asio::io_context* io,
                 boost::asio::ip::tcp::socket socket);
  ~HttpConnection();

  // Makes it known to the server; the first call, by whom it was made.
  void Register();
  void Start();
  // Answers 503 and closes.
  void Refuse();
  // Any thread.
  void PostDrain();
  void PostClose();

 private:
  class Exchange;
  using Clock = std::chrono::steady_clock;
  // kHead, kBody: a request is read. kAnswer: it is handled and answered. kLinger: the last answer
  // is out, what the client still sends is thrown away for a moment, so that it sees the answer.
  enum class Phase : uint8_t { kHead, kBody, kAnswer, kLinger, kClosed };

  void Read();
  void OnRead(size_t num_bytes, bool failed);
  void Parse();
  bool SkipEmptyLines();
  void EndRequest();
  void FailRequest(int status, const std::string& text);
  void SendContinue();

  // Of the exchange, brought here.
  void SendResponse(HttpResponse response, ContentCoding coding);
  void SendStreamHead(const HttpResponse& head);
  void SendStreamPieces();
  std::string MakeHead(const HttpResponse& response, std::string_view framing) const;

  void Write();
  void OnWritten(size_t num_bytes, bool failed);
  void BeginAnswer();
  void LeaveAnswer();  // it is out, or never will be
  void EndAnswer();
  void Linger();
  void Close();

  void Unregister();

  void SetDeadline(Clock::time_point when);
  void OnDeadline();

  const std::shared_ptr<HttpServerState> server_;
  boost::asio::io_context* const io_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point timer_expiry_ = Clock::time_point::max();

  Phase phase_ = Phase::kHead;
  std::array<char, 8 << 10> read_buffer_;
  std::string input_;  // read but not parsed
  bool reading_ = false;
  std::unique_ptr<HttpParser> parser_;  // of the request that is being read
  std::shared_ptr<Exchange> exchange_;  // of the request that is being answered

  Clock::time_point body_start_;

  std::array<std::string, 3> output_;  // head and body, or a chunk and its frame
  size_t output_written_ = 0;          // of them together
  bool writing_ = false;
  bool output_is_last_ = false;  // of the answer
  size_t stream_bytes_ = 0;      // of the stream in output_
  bool streaming_ = false;       // the head of a stream is on its way
  bool chunked_ = false;
  bool keep_alive_ = false;
  bool is_http_1_0_ = false;
  bool has_answered_ = false;
};

}  // namespace caravan
