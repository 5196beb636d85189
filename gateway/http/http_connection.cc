#include "gateway/http/http_connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/http/http_parser.h"

namespace caravan {
namespace {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

constexpr size_t kLargeBodyBytes = 64 << 10;  // takes long enough to stall the thread's neighbours
constexpr size_t kMaxEarlyBytes = 64 << 10;   // of later requests, read while one is answered
constexpr int64_t kLeastBodyBytesPerSecond = 16 << 10;
constexpr std::chrono::milliseconds kLingerTime(2000);

std::string DateNow() {
  return absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone());
}

// Values may quote what a client sent: no line of theirs becomes one of ours.
void AppendHeader(std::string* head, std::string_view name, std::string_view value) {
  head->append(name).append(": ");
  for (const char c : value) head->push_back(c == '\r' || c == '\n' || c == '\0' ? ' ' : c);
  head->append("\r\n");
}

}  // namespace

// Its own state is guarded by its mutex; posts to the connection's thread are made under it, so
// that none is made after Leave.
class HttpConnection::Exchange final : public HttpExchange,
                                       public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(std::shared_ptr<HttpConnection> connection, HttpRequest request,
           std::unique_ptr<BodyBudget> budget)
      : connection_(std::move(connection)), budget_(std::move(budget)) {
    request_ = std::move(request);
    is_head_ = request_.method == "HEAD";
    const std::string* accepted = request_.FindHeader("accept-encoding");
    if (accepted != nullptr) coding_ = ChooseContentCoding(*accepted);
  }

  void Respond(HttpResponse response) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (left_ || answered_) return;
    answered_ = true;
    const bool compress = response.compressible && !response.body.empty();
    const ContentCoding coding = compress ? coding_ : ContentCoding::kIdentity;
    if (coding == ContentCoding::kIdentity || response.body.size() <= kLargeBodyBytes) {
      asio::post(*connection_->io_,
                 [connection = connection_, response = std::move(response), coding]() mutable {
                   if (coding != ContentCoding::kIdentity) {
                     response.body = EncodeContent(coding, response.body);
                   }
                   connection->SendResponse(std::move(response), coding);
                 });
      return;
    }
    asio::post(connection_->server_->large_bodies,
               [self = shared_from_this(), response = std::move(response), coding]() mutable {
                 response.body = EncodeContent(coding, response.body);
                 self->PostResponse(std::move(response), coding);
               });
  }

  void BeginStream(HttpResponse head) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (left_ || answered_) return;
    answered_ = true;
    asio::post(*connection_->io_, [connection = connection_, head = std::move(head)] {
      connection->SendStreamHead(head);
    });
  }

  absl::Status Write(std::string_view piece) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (left_ || ended_) return absl::CancelledError("the client is gone");
    const auto limit = static_cast<size_t>(connection_->server_->options.max_stream_buffer_bytes);
    if (waiting_bytes_ > 0 && waiting_bytes_ + piece.size() > limit) {
      connection_->server_->metrics->slow_readers.Increment();
      return absl::ResourceExhaustedError(
          absl::StrCat("the client reads too slowly: ", waiting_bytes_,
                       " bytes wait for it, the limit is ", limit));
    }
    Append(piece, &lock);
    return absl::OkStatus();
  }

  void EndStream(std::string_view last) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (left_ || ended_) return;
    ended_ = true;
    Append(last, &lock);
  }

  void WhenDrained(absl::AnyInvocable<void()> callback) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!left_) drained_callback_ = std::move(callback);
  }

  void Post(absl::AnyInvocable<void()> task) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (left_) return;
    asio::post(*connection_->io_,
               [self = shared_from_this(), run = std::move(task)]() mutable { run(); });
  }

  void WhenGone(absl::AnyInvocable<void()> callback) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!left_) {
        gone_callback_ = std::move(callback);
        return;
      }
      if (complete_) return;
    }
    callback();
  }

  // What follows is the connection's.

  bool is_head() const { return is_head_; }

  // Moves what waits to `pieces`; true when nothing follows.
  bool TakePieces(std::string* pieces) {
    const std::lock_guard<std::mutex> lock(mutex_);
    posted_ = false;
    pieces->swap(pending_);
    pending_.clear();
    return ended_;
  }
  // Only the connection's thread changes the callback once it is set.
  void CountWritten(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      waiting_bytes_ -= bytes;
      if (waiting_bytes_ > 0 || ended_ || !drained_callback_) return;
    }
    drained_callback_();
  }

  // Last: the answer is out, or the client is gone.
  void Leave(bool complete) {
    absl::AnyInvocable<void()> callback;
    absl::AnyInvocable<void()> drained_callback;  // may hold the handler, and it us
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      left_ = true;
      complete_ = complete;
      std::swap(callback, gone_callback_);
      std::swap(drained_callback, drained_callback_);
      pending_ = std::string();
    }
    if (!complete && callback) callback();
  }

 private:
  void PostResponse(HttpResponse response, ContentCoding coding) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (left_) return;
    asio::post(*connection_->io_,
               [connection = connection_, response = std::move(response), coding]() mutable {
                 connection->SendResponse(std::move(response), coding);
               });
  }

  void Append(std::string_view piece, std::unique_lock<std::mutex>* lock) {
    pending_.append(piece);
    waiting_bytes_ += piece.size();
    if (std::exchange(posted_, true)) return;
    if (connection_->io_->get_executor().running_in_this_thread()) {
      lock->unlock();
      return connection_->SendStreamPieces();
    }
    asio::post(*connection_->io_,
               [self = shared_from_this()] { self->connection_->SendStreamPieces(); });
  }

  const std::shared_ptr<HttpConnection> connection_;
  const std::unique_ptr<BodyBudget> budget_;
  bool is_head_ = false;
  ContentCoding coding_ = ContentCoding::kIdentity;

  std::mutex mutex_;
  absl::AnyInvocable<void()> gone_callback_;
  absl::AnyInvocable<void()> drained_callback_;
  std::string pending_;
  size_t waiting_bytes_ = 0;  // pending or being written
  bool posted_ = false;       // SendStreamPieces will run
  bool answered_ = false;
  bool ended_ = false;  // the stream
  bool left_ = false;
  bool complete_ = false;
};

HttpConnection::HttpConnection(std::shared_ptr<HttpServerState> server, asio::io_context* io,
                               asio::ip::tcp::socket socket)
    : server_(std::move(server)), io_(io), socket_(std::move(socket)), timer_(*io) {}

void HttpConnection::Register() {
  const std::lock_guard<std::mutex> lock(server_->mutex);
  server_->connections.insert(this);
  server_->metrics->connections.Increment();
}

HttpConnection::~HttpConnection() { Unregister(); }

void HttpConnection::Unregister() {
  const std::lock_guard<std::mutex> lock(server_->mutex);
  if (server_->connections.erase(this) == 0) return;
  server_->metrics->connections.Decrement();
  if (server_->connections.empty()) server_->none_left.notify_all();
}

void HttpConnection::Start() {
  ErrorCode ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (server_->options.send_buffer_bytes > 0) {
    socket_.set_option(asio::socket_base::send_buffer_size(server_->options.send_buffer_bytes),
                       ignored);
  }
  socket_.non_blocking(true, ignored);
  SetDeadline(Clock::now() + std::chrono::milliseconds(server_->options.header_timeout_ms));
  Read();
}

void HttpConnection::Refuse() {
  server_->metrics->refused_connections.Increment();
  FailRequest(503, absl::StrCat("this server has ", server_->options.max_connections,
                                " connections already, its limit; try again later"));
}

void HttpConnection::PostDrain() {
  asio::post(*io_, [self = shared_from_this()] {
    // A new connection brings its first request.
    if (self->phase_ == Phase::kHead && self->parser_ == nullptr && self->has_answered_) {
      self->Close();
    }
  });
}

void HttpConnection::PostClose() {
  asio::post(*io_, [self = shared_from_this()] { self->Close(); });
}

void HttpConnection::Read() {
  if (reading_ || phase_ == Phase::kClosed) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(read_buffer_),
                          [self = shared_from_this()](const ErrorCode& error, size_t num_bytes) {
                            self->OnRead(num_bytes, static_cast<bool>(error));
                          });
}

void HttpConnection::OnRead(size_t num_bytes, bool failed) {
  reading_ = false;
  if (failed) return Close();
  if (phase_ == Phase::kLinger) return Read();
  if (phase_ == Phase::kClosed) return;
  input_.append(read_buffer_.data(), num_bytes);
  if (phase_ == Phase::kHead || phase_ == Phase::kBody) {
    Parse();
  } else if (input_.size() < kMaxEarlyBytes) {
    Read();
  }
}

// Some clients send one after a body.
bool HttpConnection::SkipEmptyLines() {
  const size_t begin = std::min(input_.find_first_not_of("\r\n"), input_.size());
  input_.erase(0, begin);
  return !input_.empty();
}

void HttpConnection::Parse() {
  if (parser_ == nullptr) {
    if (!SkipEmptyLines()) return Read();
    parser_ = std::make_unique<HttpParser>(
        server_->options,
        std::make_unique<BodyBudget>(&server_->body_bytes, server_->options.max_all_bodies_bytes,
                                     &server_->metrics->body_bytes));
    SetDeadline(Clock::now() + std::chrono::milliseconds(server_->options.header_timeout_ms));
  }
  parser_->Parse(&input_);
  if (parser_->failed()) return FailRequest(parser_->failure_status(), parser_->failure());
  if (parser_->is_done()) return EndRequest();
  if (parser_->is_header_done()) {
    if (phase_ == Phase::kHead) {
      phase_ = Phase::kBody;
      body_start_ = Clock::now();
      if (parser_->expects_continue() && parser_->raw_body_bytes() == 0) SendContinue();
    }
    SetDeadline(body_start_ + std::chrono::milliseconds(server_->options.body_timeout_ms) +
                std::chrono::seconds(parser_->raw_body_bytes() / kLeastBodyBytesPerSecond));
  }
  Read();
}

// Nothing is lost where the socket can't take these few bytes: the client's patience ends.
void HttpConnection::SendContinue() {
  ErrorCode ignored;
  socket_.write_some(asio::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")), ignored);
}

void HttpConnection::BeginAnswer() {
  phase_ = Phase::kAnswer;
  const std::lock_guard<std::mutex> lock(server_->mutex);
  ++server_->num_answers;
}

void HttpConnection::LeaveAnswer() {
  const std::lock_guard<std::mutex> lock(server_->mutex);
  if (--server_->num_answers == 0) server_->answers_ended.notify_all();
}

void HttpConnection::EndRequest() {
  BeginAnswer();
  SetDeadline(Clock::time_point::max());
  keep_alive_ = parser_->keep_alive();
  is_http_1_0_ = parser_->is_http_1_0();
  HttpRequest request = parser_->TakeRequest();
  ErrorCode ignored;
  request.client = socket_.remote_endpoint(ignored).address().to_string();
  const bool is_large = request.body.size() > kLargeBodyBytes;
  exchange_ =
      std::make_shared<Exchange>(shared_from_this(), std::move(request), parser_->TakeBudget());
  parser_ = nullptr;
  if (is_large) {
    asio::post(server_->large_bodies, [server = server_, exchange = exchange_]() mutable {
      server->handler->Handle(std::move(exchange));
    });
  } else {
    server_->handler->Handle(exchange_);
  }
  Read();
}

void HttpConnection::FailRequest(int status, const std::string& text) {
  BeginAnswer();
  keep_alive_ = false;
  is_http_1_0_ = false;
  SendResponse(server_->handler->MakeError(status, text), ContentCoding::kIdentity);
  parser_ = nullptr;  // `text` may be its own
  Read();
}

std::string HttpConnection::MakeHead(const HttpResponse& response, std::string_view framing) const {
  std::string head =
      absl::StrCat("HTTP/1.1 ", response.status, " ", std::string(ReasonOf(response.status)),
                   "\r\nDate: ", DateNow(), "\r\n");
  if (!response.content_type.empty()) AppendHeader(&head, "Content-Type", response.content_type);
  for (const HttpHeader& header : response.headers) {
    AppendHeader(&head, header.name, header.value);
  }
  head.append(framing);
  if (!keep_alive_) {
    head.append("Connection: close\r\n");
  } else if (is_http_1_0_) {
    head.append("Connection: keep-alive\r\n");
  }
  head.append("\r\n");
  return head;
}

void HttpConnection::SendResponse(HttpResponse response, ContentCoding coding) {
  if (phase_ != Phase::kAnswer) return;
  if (server_->draining) keep_alive_ = false;
  server_->metrics->response(response.status).Increment();
  std::string framing = absl::StrCat("Content-Length: ", response.body.size(), "\r\n");
  if (coding != ContentCoding::kIdentity) {
    absl::StrAppend(&framing, "Content-Encoding: ", std::string(NameOf(coding)),
                    "\r\nVary: Accept-Encoding\r\n");
  }
  output_[0] = MakeHead(response, framing);
  if (exchange_ == nullptr || !exchange_->is_head()) output_[1] = std::move(response.body);
  output_is_last_ = true;
  Write();
}

void HttpConnection::SendStreamHead(const HttpResponse& head) {
  if (phase_ != Phase::kAnswer) return;
  chunked_ = !is_http_1_0_;
  if (!chunked_ || server_->draining) keep_alive_ = false;
  server_->metrics->response(head.status).Increment();
  output_[0] = MakeHead(head, chunked_ ? "Transfer-Encoding: chunked\r\n" : "");
  output_is_last_ = false;
  streaming_ = true;
  Write();
}

void HttpConnection::SendStreamPieces() {
  if (phase_ != Phase::kAnswer || !streaming_ || writing_) return;  // OnWritten comes here again
  output_is_last_ = exchange_->TakePieces(&output_[1]);
  stream_bytes_ = output_[1].size();
  if (chunked_ && stream_bytes_ > 0) {
    output_[0] = absl::StrCat(absl::Hex(stream_bytes_), "\r\n");
    output_[2] = "\r\n";
  }
  if (chunked_ && output_is_last_) output_[2].append("0\r\n\r\n");
  if (stream_bytes_ > 0 || output_is_last_) Write();
}

void HttpConnection::Write() {
  writing_ = true;
  std::array<asio::const_buffer, 3> buffers;
  size_t skip = output_written_;
  for (size_t i = 0; i < output_.size(); ++i) {
    const size_t skip_here = std::min(skip, output_[i].size());
    buffers[i] = asio::buffer(output_[i].data() + skip_here, output_[i].size() - skip_here);
    skip -= skip_here;
  }
  SetDeadline(Clock::now() + std::chrono::milliseconds(server_->options.slow_reader_timeout_ms));
  socket_.async_write_some(buffers,
                           [self = shared_from_this()](const ErrorCode& error, size_t num_bytes) {
                             self->OnWritten(num_bytes, static_cast<bool>(error));
                           });
}

void HttpConnection::OnWritten(size_t num_bytes, bool failed) {
  writing_ = false;
  if (phase_ == Phase::kClosed) return;
  if (failed) return Close();
  output_written_ += num_bytes;
  if (output_written_ < output_[0].size() + output_[1].size() + output_[2].size()) return Write();
  SetDeadline(Clock::time_point::max());
  output_written_ = 0;
  for (std::string& part : output_) part.clear();
  if (output_is_last_) return EndAnswer();
  if (stream_bytes_ > 0) exchange_->CountWritten(std::exchange(stream_bytes_, 0));
  SendStreamPieces();
}

void HttpConnection::EndAnswer() {
  LeaveAnswer();
  if (exchange_ != nullptr) std::exchange(exchange_, nullptr)->Leave(/*complete=*/true);
  for (std::string& part : output_) part = std::string();
  streaming_ = false;
  stream_bytes_ = 0;
  has_answered_ = true;
  if (!keep_alive_ || server_->draining) return Linger();
  phase_ = Phase::kHead;
  SetDeadline(Clock::now() + std::chrono::milliseconds(server_->options.idle_timeout_ms));
  Parse();
}

// Closing at once while the client still sends would reset the connection, and the answer with it.
void HttpConnection::Linger() {
  phase_ = Phase::kLinger;
  input_ = std::string();
  ErrorCode error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  if (error) return Close();
  SetDeadline(Clock::now() + kLingerTime);
  Read();
}

void HttpConnection::Close() {
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kAnswer) LeaveAnswer();
  phase_ = Phase::kClosed;
  ErrorCode ignored;
  socket_.close(ignored);
  timer_.cancel(ignored);
  parser_ = nullptr;
  if (exchange_ != nullptr) {
    server_->metrics->gone_clients.Increment();
    std::exchange(exchange_, nullptr)->Leave(/*complete=*/false);
  }
  Unregister();
}

// The timer is set again only where it would fire too late: most deadlines move on before they
// come.
void HttpConnection::SetDeadline(Clock::time_point when) {
  deadline_ = when;
  if (when >= timer_expiry_) return;
  timer_expiry_ = when;
  timer_.expires_at(when);
  timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (error || self->phase_ == Phase::kClosed) return;
    self->timer_expiry_ = Clock::time_point::max();
    if (Clock::now() >= self->deadline_) return self->OnDeadline();
    if (self->deadline_ != Clock::time_point::max()) self->SetDeadline(self->deadline_);
  });
}

void HttpConnection::OnDeadline() {
  if (phase_ == Phase::kHead && parser_ == nullptr) return Close();
  if (phase_ == Phase::kHead) return FailRequest(408, "the headers of the request came too slowly");
  if (phase_ == Phase::kBody) return FailRequest(408, "the body of the request came too slowly");
  if (phase_ == Phase::kAnswer) server_->metrics->slow_readers.Increment();
  Close();
}

}  // namespace caravan
