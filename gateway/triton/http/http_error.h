// Errors of the Triton door over HTTP: {"error": text}, and a status by the error's code.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "gateway/http/http_message.h"

namespace caravan {

// As Triton does: 400 INVALID_ARGUMENT, ALREADY_EXISTS and CANCELLED, 404 NOT_FOUND, 500 INTERNAL,
// 501 UNIMPLEMENTED, 503 UNAVAILABLE. Beyond it: 429 RESOURCE_EXHAUSTED, 504 DEADLINE_EXCEEDED.
int HttpStatusOf(absl::StatusCode code);

HttpResponse MakeErrorResponse(int status, std::string_view text);
// With Retry-After where another try may help.
HttpResponse MakeErrorResponse(const absl::Status& status);
// The JSON alone, for an event of a stream.
std::string ErrorJson(std::string_view text);

}  // namespace caravan
