#include "gateway/triton/http/http_error.h"

#include "gateway/triton/http/json_text.h"

namespace caravan {

int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
      return 400;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorJson(std::string_view text) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  json["error"] = text;
  return ToText(json);
}

HttpResponse MakeErrorResponse(int status, std::string_view text) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/json";
  response.body = ErrorJson(text);
  if (status == 429 || status == 503) response.headers.push_back({"Retry-After", "1"});
  return response;
}

HttpResponse MakeErrorResponse(const absl::Status& status) {
  return MakeErrorResponse(HttpStatusOf(status.code()), std::string(status.message()));
}

}  // namespace caravan
