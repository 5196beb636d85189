#include "gateway/grpc_call.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "common/server.h"
#include "gateway/http/content_coding.h"

namespace caravan {

namespace {

// No protobuf message begins with gzip's first byte. Zlib's could be a field of number 15, which no
// message of ours has first; what then is no zlib data is taken as it is.
ContentCoding CodingOf(std::string_view first) {
  const auto byte = [first](size_t i) { return static_cast<unsigned char>(first[i]); };
  if (first.size() < 2) return ContentCoding::kIdentity;
  if (byte(0) == 0x1f && byte(1) == 0x8b) return ContentCoding::kGzip;
  const bool zlib = byte(0) == 0x78 && (byte(0) * 256 + byte(1)) % 31 == 0;
  return zlib ? ContentCoding::kDeflate : ContentCoding::kIdentity;
}

std::string_view ViewOf(const grpc::Slice& slice) {
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

}  // namespace

absl::Status Decompress(size_t max_bytes, grpc::ByteBuffer* bytes) {
  std::vector<grpc::Slice> slices;
  if (!bytes->Dump(&slices).ok() || slices.empty()) return absl::OkStatus();
  std::string first(ViewOf(slices[0]).substr(0, 2));
  if (first.size() < 2 && slices.size() > 1) first += ViewOf(slices[1]).substr(0, 1);
  const ContentCoding coding = CodingOf(first);
  if (coding == ContentCoding::kIdentity) return absl::OkStatus();
  ContentDecoder decoder(coding, max_bytes);
  std::string plain;
  absl::Status status;
  for (size_t i = 0; i < slices.size() && status.ok(); ++i) {
    status = decoder.Add(ViewOf(slices[i]), &plain);
  }
  if (status.ok()) status = decoder.Finish();
  if (absl::IsInvalidArgument(status) && coding == ContentCoding::kDeflate) return absl::OkStatus();
  RETURN_IF_ERROR(status);
  const grpc::Slice slice(plain);
  *bytes = grpc::ByteBuffer(&slice, 1);
  return absl::OkStatus();
}

CallInfo CallInfoOf(const grpc::CallbackServerContext& context) {
  CallInfo call;
  call.request_id = MetadataOf(context, kRequestIdKey);
  call.traceparent = MetadataOf(context, kTraceparentKey);
  call.client = context.peer();
  call.client.resize(std::min(call.client.size(), call.client.rfind(':')));
  call.deadline = context.deadline();
  return call;
}

std::chrono::steady_clock::time_point EarlierDeadline(
    std::chrono::steady_clock::time_point arrival, uint32_t timeout_ms,
    std::chrono::system_clock::time_point of_call) {
  using Steady = std::chrono::steady_clock;
  // A call without a deadline has one in the far future, which must not overflow.
  constexpr auto kForever = std::chrono::hours(24 * 365);
  const auto left = of_call - std::chrono::system_clock::now();
  Steady::time_point deadline = left > kForever
                                    ? Steady::time_point::max()
                                    : arrival + std::chrono::duration_cast<Steady::duration>(left);
  if (timeout_ms > 0) {
    deadline = std::min(deadline, arrival + std::chrono::milliseconds(timeout_ms));
  }
  return deadline;
}

}  // namespace caravan
