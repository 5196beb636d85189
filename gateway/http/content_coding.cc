#include "gateway/http/content_coding.h"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr int kWindowBits = 15;
constexpr int kGzip = 16;  // added to the window bits: zlib's way to say gzip
constexpr size_t kPieceBytes = 64 << 10;

// "gzip;q=0.5" → its name and weight; a weight that can't be read counts as 0.
std::pair<std::string, double> ParseWeighted(absl::string_view item) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(item, absl::MaxSplits(';', 1));
  double weight = 1;
  absl::string_view parameter = absl::StripAsciiWhitespace(parts.second);
  if (absl::StartsWithIgnoreCase(parameter, "q=") &&
      !absl::SimpleAtod(absl::StripAsciiWhitespace(parameter.substr(2)), &weight)) {
    weight = 0;
  }
  return {absl::AsciiStrToLower(absl::StripAsciiWhitespace(parts.first)), weight};
}

// zlib's (RFC 1950) first two bytes: method 8 and a checksum; raw deflate data has no such header.
bool HasZlibHeader(std::string_view first) {
  const auto cmf = static_cast<unsigned char>(first[0]);
  if ((cmf & 0x0f) != 8 || (cmf >> 4) > 7) return false;
  return first.size() < 2 || (cmf * 256 + static_cast<unsigned char>(first[1])) % 31 == 0;
}

}  // namespace

absl::StatusOr<ContentCoding> ParseContentCoding(std::string_view header) {
  const std::string name =
      absl::AsciiStrToLower(absl::StripAsciiWhitespace({header.data(), header.size()}));
  if (name.empty() || name == "identity") return ContentCoding::kIdentity;
  if (name == "gzip" || name == "x-gzip") return ContentCoding::kGzip;
  if (name == "deflate") return ContentCoding::kDeflate;
  return absl::UnimplementedError(
      absl::StrCat("Content-Encoding is '", name.substr(0, 64),
                   "'; this server takes gzip, deflate and identity, one at a time"));
}

ContentCoding ChooseContentCoding(std::string_view header) {
  double gzip = -1;
  double deflate = -1;
  double any = -1;
  for (const absl::string_view item :
       absl::StrSplit(absl::string_view(header.data(), header.size()), ',')) {
    const auto [name, weight] = ParseWeighted(item);
    if (name == "gzip" || name == "x-gzip") gzip = weight;
    if (name == "deflate") deflate = weight;
    if (name == "*") any = weight;
  }
  if (gzip < 0) gzip = any;
  if (deflate < 0) deflate = any;
  if (gzip <= 0 && deflate <= 0) return ContentCoding::kIdentity;
  return gzip >= deflate ? ContentCoding::kGzip : ContentCoding::kDeflate;
}

std::string_view NameOf(ContentCoding coding) {
  switch (coding) {
    case ContentCoding::kGzip:
      return "gzip";
    case ContentCoding::kDeflate:
      return "deflate";
    case ContentCoding::kIdentity:
      break;
  }
  return "identity";
}

ContentDecoder::ContentDecoder(ContentCoding coding, size_t max_bytes)
    : coding_(coding), max_bytes_(max_bytes) {}

ContentDecoder::~ContentDecoder() {
  if (zlib_ != nullptr) inflateEnd(zlib_.get());
}

absl::Status ContentDecoder::Open(std::string_view first) {
  open_ = true;
  int window_bits = kWindowBits;
  if (coding_ == ContentCoding::kGzip) window_bits += kGzip;
  if (coding_ == ContentCoding::kDeflate && !HasZlibHeader(first)) window_bits = -kWindowBits;
  zlib_ = std::make_unique<z_stream_s>();
  if (inflateInit2(zlib_.get(), window_bits) == Z_OK) return absl::OkStatus();
  zlib_ = nullptr;
  return absl::ResourceExhaustedError("no memory to decompress the body");
}

absl::Status ContentDecoder::Add(std::string_view piece, std::string* decoded) {
  if (piece.empty()) return absl::OkStatus();
  if (coding_ != ContentCoding::kIdentity) {
    if (!open_) RETURN_IF_ERROR(Open(piece));
    return Inflate(piece, decoded);
  }
  if (piece.size() > max_bytes_ - decoded_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the body is larger than ", max_bytes_, " bytes, the limit"));
  }
  decoded_bytes_ += piece.size();
  decoded->append(piece);
  return absl::OkStatus();
}

absl::Status ContentDecoder::Inflate(std::string_view piece, std::string* decoded) {
  CARAVAN_CHECK(piece.size() <= std::numeric_limits<uInt>::max());
  // zlib does not write to its input; its type has no const.
  zlib_->next_in = reinterpret_cast<Bytef*>(const_cast<char*>(piece.data()));
  zlib_->avail_in = static_cast<uInt>(piece.size());
  char buffer[kPieceBytes];
  do {
    // A gzip body may be several members, one behind the other.
    if (ended_ && (coding_ != ContentCoding::kGzip || inflateReset(zlib_.get()) != Z_OK)) {
      return absl::InvalidArgumentError("the compressed body goes on after its end");
    }
    ended_ = false;
    zlib_->next_out = reinterpret_cast<Bytef*>(buffer);
    zlib_->avail_out = sizeof(buffer);
    const int result = inflate(zlib_.get(), Z_NO_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
      return absl::InvalidArgumentError(
          absl::StrCat("the body is not valid ", std::string(NameOf(coding_)), " data",
                       zlib_->msg == nullptr ? "" : absl::StrCat(": ", zlib_->msg).c_str()));
    }
    ended_ = result == Z_STREAM_END;
    const size_t produced = sizeof(buffer) - zlib_->avail_out;
    if (produced > max_bytes_ - decoded_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the decompressed body is larger than ", max_bytes_, " bytes, the limit"));
    }
    decoded_bytes_ += produced;
    decoded->append(buffer, produced);
    // Z_BUF_ERROR: all input is used up and all output was fetched.
    if (result == Z_BUF_ERROR) break;
  } while (zlib_->avail_in > 0 || (zlib_->avail_out == 0 && !ended_));
  return absl::OkStatus();
}

absl::Status ContentDecoder::Finish() const {
  if (!open_ || ended_) return absl::OkStatus();
  return absl::InvalidArgumentError("the compressed body ends before its data does");
}

std::string EncodeContent(ContentCoding coding, std::string_view body) {
  CARAVAN_CHECK(coding != ContentCoding::kIdentity);
  z_stream_s zlib = {};
  const int window_bits = coding == ContentCoding::kGzip ? kWindowBits + kGzip : kWindowBits;
  CARAVAN_CHECK(deflateInit2(&zlib, Z_BEST_SPEED, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY) ==
                Z_OK);
  std::string encoded(deflateBound(&zlib, body.size()), '\0');
  size_t read = 0;
  size_t written = 0;
  int result = Z_OK;
  // In steps, since zlib counts in 32 bits.
  constexpr size_t kStep = 1 << 30;
  while (result != Z_STREAM_END) {
    const size_t input = std::min(kStep, body.size() - read);
    const size_t output = std::min(kStep, encoded.size() - written);
    zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data() + read));
    zlib.avail_in = static_cast<uInt>(input);
    zlib.next_out = reinterpret_cast<Bytef*>(encoded.data() + written);
    zlib.avail_out = static_cast<uInt>(output);
    result = deflate(&zlib, read + input == body.size() ? Z_FINISH : Z_NO_FLUSH);
    CARAVAN_CHECK(result == Z_OK || result == Z_STREAM_END, result);
    read += input - zlib.avail_in;
    written += output - zlib.avail_out;
  }
  deflateEnd(&zlib);
  encoded.resize(written);
  return encoded;
}

}  // namespace caravan
