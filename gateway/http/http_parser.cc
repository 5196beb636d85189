#include "gateway/http/http_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

namespace http = boost::beast::http;

// The least that a header or a chunk's first line may need before it can be parsed.
constexpr size_t kMaxLineBytes = 16 << 10;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return 413;
    case absl::StatusCode::kUnimplemented:
      return 415;
    default:
      return 400;
  }
}

}  // namespace

BodyBudget::~BodyBudget() {
  used_->fetch_sub(taken_);
  gauge_->Decrement(static_cast<double>(taken_));
}

bool BodyBudget::Grow(int64_t total) {
  const int64_t more = total - taken_;
  if (used_->fetch_add(more) + more > limit_) {
    used_->fetch_sub(more);
    return false;
  }
  gauge_->Increment(static_cast<double>(more));
  taken_ = total;
  return true;
}

HttpParser::HttpParser(const HttpServerOptions& options, std::unique_ptr<BodyBudget> budget)
    : options_(options), budget_(std::move(budget)) {
  header_limit(static_cast<uint32_t>(options.max_header_bytes));
  body_limit(static_cast<uint64_t>(options.max_body_bytes));
  eager(true);
}

void HttpParser::Parse(std::string* input) {
  while (!input->empty() && !failed() && !is_done()) {
    ErrorCode error;
    const size_t consumed = put(boost::asio::buffer(*input), error);
    input->erase(0, consumed);
    if (failed()) return;
    if (error == http::error::need_more) {
      const size_t limit = std::max(kMaxLineBytes, static_cast<size_t>(options_.max_header_bytes));
      if (consumed == 0 && input->size() > limit)
        Fail(400, "a line of the request is too long", &error);
      return;
    }
    if (error) return FailOf(error);
  }
}

void HttpParser::Fail(int status, std::string_view text, ErrorCode* error) {
  failure_status_ = status;
  failure_ = text;
  *error = http::error::bad_value;
}

void HttpParser::FailOf(const ErrorCode& error) {
  failure_status_ = 400;
  failure_ = absl::StrCat("malformed HTTP request: ", error.message());
  if (error == http::error::bad_version) {
    failure_status_ = 505;
  } else if (error == http::error::header_limit) {
    failure_status_ = 431;
    failure_ = absl::StrCat("the headers are larger than ", options_.max_header_bytes,
                            " bytes, the limit");
  } else if (error == http::error::body_limit) {
    failure_status_ = 413;
    failure_ =
        absl::StrCat("the body is larger than ", options_.max_body_bytes, " bytes, the limit");
  }
}

void HttpParser::on_request_impl(http::verb verb, StringView method, StringView target, int version,
                                 ErrorCode& error) {
  if (version != 10 && version != 11) {
    return Fail(505, "this server speaks HTTP/1.1 and HTTP/1.0", &error);
  }
  version_ = version;
  request_.method = View(method);
  std::string_view path = View(target);
  // The absolute form, as to a proxy.
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!path.starts_with(scheme)) continue;
    path.remove_prefix(scheme.size());
    path.remove_prefix(std::min(path.find('/'), path.size()));
  }
  const size_t question = path.find('?');
  request_.path = path.substr(0, question);
  if (question != std::string_view::npos) request_.query = path.substr(question + 1);
}

void HttpParser::on_response_impl(int status, StringView reason, int version, ErrorCode& error) {}

void HttpParser::on_field_impl(http::field field, StringView name, StringView value,
                               ErrorCode& error) {
  if (has_headers_) return;  // trailers mean nothing here
  request_.headers.push_back(
      {absl::AsciiStrToLower({name.data(), name.size()}), std::string(View(value))});
}

void HttpParser::on_header_impl(ErrorCode& error) {
  has_headers_ = true;
  ContentCoding coding = ContentCoding::kIdentity;
  for (const HttpHeader& header : request_.headers) {
    if (header.name == "transfer-encoding" && !absl::EqualsIgnoreCase(header.value, "chunked")) {
      return Fail(501, "Transfer-Encoding must be chunked, or absent", &error);
    }
    if (header.name == "expect") {
      if (!absl::EqualsIgnoreCase(header.value, "100-continue")) {
        return Fail(417, "Expect must be 100-continue, or absent", &error);
      }
      expects_continue_ = true;
    }
    if (header.name != "content-encoding") continue;
    const absl::StatusOr<ContentCoding> parsed = ParseContentCoding(header.value);
    if (!parsed.ok() || coding != ContentCoding::kIdentity) {
      return Fail(415, std::string(parsed.status().message()), &error);
    }
    coding = *parsed;
  }
  decoder_ = std::make_unique<ContentDecoder>(coding, static_cast<size_t>(options_.max_body_bytes));
}

void HttpParser::on_body_init_impl(const boost::optional<std::uint64_t>& length, ErrorCode& error) {
  // The memory follows what comes, not what is announced.
}

std::size_t HttpParser::on_body_impl(StringView piece, ErrorCode& error) {
  raw_body_bytes_ += static_cast<int64_t>(piece.size());
  const absl::Status status = decoder_->Add(View(piece), &request_.body);
  if (!status.ok()) {
    Fail(HttpStatusOf(status), std::string(status.message()), &error);
  } else if (!budget_->Grow(static_cast<int64_t>(request_.body.size()))) {
    Fail(503, "the requests in flight take all memory for bodies; try again later", &error);
  }
  return piece.size();
}

void HttpParser::on_chunk_header_impl(std::uint64_t size, StringView extensions, ErrorCode& error) {
}

std::size_t HttpParser::on_chunk_body_impl(std::uint64_t remain, StringView piece,
                                           ErrorCode& error) {
  return on_body_impl(piece, error);
}

void HttpParser::on_finish_impl(ErrorCode& error) {
  const absl::Status status = decoder_->Finish();
  if (!status.ok()) Fail(HttpStatusOf(status), std::string(status.message()), &error);
}

}  // namespace caravan
