// Content-Encoding of HTTP (RFC 9110, 8.4): gzip and deflate bodies, by zlib.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct z_stream_s;

namespace caravan {

enum class ContentCoding : uint8_t { kIdentity, kGzip, kDeflate };

// A Content-Encoding header; UNIMPLEMENTED for another coding, or for several at once.
absl::StatusOr<ContentCoding> ParseContentCoding(std::string_view header);

// The best coding that an Accept-Encoding header takes: gzip, then deflate, among equal weights.
ContentCoding ChooseContentCoding(std::string_view header);

// "gzip", "deflate", "identity".
std::string_view NameOf(ContentCoding coding);

// Decodes one body, piece by piece. "deflate" is the zlib format as the standard says; the raw
// format that some clients send by that name is taken too. Not thread-safe.
class ContentDecoder {
 public:
  // At most `max_bytes` come out.
  ContentDecoder(ContentCoding coding, size_t max_bytes);
  ~ContentDecoder();

  // Appends to `decoded`. INVALID_ARGUMENT for damaged data, RESOURCE_EXHAUSTED for more than
  // max_bytes. A piece may grow a thousandfold, so give small ones where time matters.
  absl::Status Add(std::string_view piece, std::string* decoded);
  // INVALID_ARGUMENT where the data ends too early.
  absl::Status Finish() const;

 private:
  absl::Status Inflate(std::string_view piece, std::string* decoded);
  absl::Status Open(std::string_view first);

  const ContentCoding coding_;
  const size_t max_bytes_;
  size_t decoded_bytes_ = 0;
  bool open_ = false;
  bool ended_ = false;  // a whole zlib or gzip member was read
  std::unique_ptr<z_stream_s> zlib_;
};

// A whole body, at zlib's fastest level. REQUIRES: coding is not kIdentity.
std::string EncodeContent(ContentCoding coding, std::string_view body);

}  // namespace caravan
