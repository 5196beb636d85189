// Messages of HTTP as the server hands them over.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace caravan {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;               // as sent, e.g. "GET"
  std::string path;                 // up to the '?', percent-encoded as sent
  std::string query;                // after it
  std::vector<HttpHeader> headers;  // in order, names in lower case
  std::string body;                 // decoded: chunks and Content-Encoding are gone
  std::string client;               // its IP address

  // The first header of this name (in lower case); nullptr where there is none.
  const std::string* FindHeader(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // empty: none is sent
  // Further ones. The server adds Date, Content-Length, Content-Encoding, Transfer-Encoding and
  // Connection.
  std::vector<HttpHeader> headers;
  std::string body;
  bool compressible = false;  // by a coding that the client takes
};

// "Not Found" for 404; "Unknown" for codes that no door uses.
std::string_view ReasonOf(int status);

// The segments between the slashes of a path, percent-decoded; an empty last one is dropped.
// INVALID_ARGUMENT where a '%' is not followed by two hexadecimal digits.
absl::StatusOr<std::vector<std::string>> SplitPath(std::string_view path);

}  // namespace caravan
