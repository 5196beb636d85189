// Turns the bytes of one request into an HttpRequest, within limits. Internal to the server:
// includes Beast, which is slow to compile.
#pragma once

#include <atomic>
#include <boost/beast/http/basic_parser.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "gateway/http/content_coding.h"
#include "gateway/http/http_message.h"
#include "gateway/http/http_server.h"

namespace caravan {

// A share of the bytes that the bodies of all requests may take together; given back on
// destruction.
class BodyBudget {
 public:
  BodyBudget(std::atomic<int64_t>* used, int64_t limit, Gauge* gauge)
      : used_(used), limit_(limit), gauge_(gauge) {}
  ~BodyBudget();
  BodyBudget(const BodyBudget&) = delete;
  BodyBudget& operator=(const BodyBudget&) = delete;

  // Whether `total` bytes can be had, in place of what was had before.
  bool Grow(int64_t total);

 private:
  std::atomic<int64_t>* const used_;
  const int64_t limit_;
  Gauge* const gauge_;
  int64_t taken_ = 0;
};

// Beast's incremental parser finds the parts of the message; this keeps and checks them.
class HttpParser final : public boost::beast::http::basic_parser<true> {
 public:
  HttpParser(const HttpServerOptions& options, std::unique_ptr<BodyBudget> budget);

  // Consumes what it can from the front of `input`. Afterwards the request is complete (is_done()),
  // failed, or more input is needed.
  void Parse(std::string* input);

  bool failed() const { return failure_status_ != 0; }
  int failure_status() const { return failure_status_; }  // HTTP's
  const std::string& failure() const { return failure_; }

  // The client waits for a word before it sends the body.
  bool expects_continue() const { return expects_continue_; }
  // Of the body, as it came.
  int64_t raw_body_bytes() const { return raw_body_bytes_; }

  bool is_http_1_0() const { return version_ == 10; }

  // REQUIRES: is_done().
  HttpRequest TakeRequest() { return std::move(request_); }
  std::unique_ptr<BodyBudget> TakeBudget() { return std::move(budget_); }

 private:
  using ErrorCode = boost::beast::error_code;
  using StringView = boost::beast::string_view;
  void on_request_impl(boost::beast::http::verb verb, StringView method, StringView target,
                       int version, ErrorCode& error) override;
  void on_response_impl(int status, StringView reason, int version, ErrorCode& error) override;
  void on_field_impl(boost::beast::http::field field, StringView name, StringView value,
                     ErrorCode& error) override;
  void on_header_impl(ErrorCode& error) override;
  void on_body_init_impl(const boost::optional<std::uint64_t>& length, ErrorCode& error) override;
  std::size_t on_body_impl(StringView piece, ErrorCode& error) override;
  void on_chunk_header_impl(std::uint64_t size, StringView extensions, ErrorCode& error) override;
  std::size_t on_chunk_body_impl(std::uint64_t remain, StringView piece, ErrorCode& error) override;
  void on_finish_impl(ErrorCode& error) override;

  void Fail(int status, std::string_view text, ErrorCode* error);
  void FailOf(const ErrorCode& error);

  const HttpServerOptions& options_;
  HttpRequest request_;
  std::unique_ptr<BodyBudget> budget_;
  std::unique_ptr<ContentDecoder> decoder_;
  bool has_headers_ = false;  // what follows as a field is a trailer
  bool expects_continue_ = false;
  int64_t raw_body_bytes_ = 0;
  int version_ = 11;
  int failure_status_ = 0;
  std::string failure_;
};

}  // namespace caravan
