// Compressed messages as services take them.
#include "gateway/grpc_call.h"

#include <gtest/gtest.h>

#include "gateway/http/content_coding.h"
#include "inference/grpc_service.grpc.pb.h"

namespace caravan {
namespace {

grpc::ByteBuffer BufferOf(const std::string& bytes, size_t slice_bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += slice_bytes) {
    slices.emplace_back(bytes.substr(i, slice_bytes));
  }
  return {slices.data(), slices.size()};
}

std::string TextOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return text;
}

std::string SomeText(size_t bytes) {
  std::string text;
  for (size_t i = 0; text.size() < bytes; ++i) text += std::to_string(i * i);
  text.resize(bytes);
  return text;
}

TEST(Decompress, GivesWhatWasCompressedInAnySlices) {
  for (const ContentCoding coding : {ContentCoding::kGzip, ContentCoding::kDeflate}) {
    for (const size_t bytes : {0, 1, 1000, 100000}) {
      for (const size_t slice_bytes : {1, 7, 1 << 20}) {
        const std::string text = SomeText(bytes);
        grpc::ByteBuffer buffer = BufferOf(EncodeContent(coding, text), slice_bytes);
        EXPECT_TRUE(Decompress(100000, &buffer).ok());
        EXPECT_EQ(TextOf(buffer), text);
      }
    }
  }
}

TEST(Decompress, StopsAtTheLimit) {
  for (const ContentCoding coding : {ContentCoding::kGzip, ContentCoding::kDeflate}) {
    const std::string encoded = EncodeContent(coding, std::string(50 << 20, 'a'));
    EXPECT_LT(encoded.size(), size_t{1} << 20);
    grpc::ByteBuffer buffer = BufferOf(encoded, 1 << 14);
    EXPECT_TRUE(absl::IsResourceExhausted(Decompress(1 << 20, &buffer)));
  }
}

TEST(Decompress, LeavesMessagesThatAreNotCompressed) {
  inference::ModelReadyRequest request;
  request.set_name("ensemble");
  // Fields of number 15 begin with zlib's first byte.
  for (const std::string& text : {request.SerializeAsString(), std::string(), std::string("\x78"),
                                  std::string("\x78\x9c\x05\xff"), std::string("x\x01zzz")}) {
    grpc::ByteBuffer buffer = BufferOf(text, 1 << 20);
    EXPECT_TRUE(Decompress(1 << 20, &buffer).ok());
    EXPECT_EQ(TextOf(buffer), text);
  }
}

TEST(Decompress, RefusesDamagedGzip) {
  std::string encoded = EncodeContent(ContentCoding::kGzip, SomeText(1000));
  grpc::ByteBuffer cut = BufferOf(encoded.substr(0, encoded.size() / 2), 1 << 20);
  EXPECT_TRUE(absl::IsInvalidArgument(Decompress(1 << 20, &cut)));
  encoded[20] = static_cast<char>(encoded[20] ^ 0x55);
  grpc::ByteBuffer damaged = BufferOf(encoded, 1 << 20);
  EXPECT_TRUE(absl::IsInvalidArgument(Decompress(1 << 20, &damaged)));
}

}  // namespace
}  // namespace caravan
