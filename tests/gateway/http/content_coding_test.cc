#include "gateway/http/content_coding.h"

#include <gtest/gtest.h>

#include <random>

namespace caravan {
namespace {

constexpr size_t kLimit = 1 << 20;

std::string SomeText(size_t size) {
  std::mt19937 random(7);
  std::string text;
  while (text.size() < size) text.append(std::to_string(random() % 1000)).push_back(' ');
  text.resize(size);
  return text;
}

absl::StatusOr<std::string> Decode(ContentCoding coding, std::string_view encoded,
                                   size_t piece_bytes = 1000, size_t limit = kLimit) {
  ContentDecoder decoder(coding, limit);
  std::string decoded;
  for (size_t i = 0; i < encoded.size(); i += piece_bytes) {
    absl::Status status = decoder.Add(encoded.substr(i, piece_bytes), &decoded);
    if (!status.ok()) return status;
  }
  absl::Status status = decoder.Finish();
  if (!status.ok()) return status;
  return decoded;
}

TEST(ContentCoding, DecodesWhatItEncodedInAnyPieces) {
  for (const ContentCoding coding : {ContentCoding::kGzip, ContentCoding::kDeflate}) {
    for (const size_t size : {0, 1, 100, 65536, 300000}) {
      const std::string text = SomeText(size);
      const std::string encoded = EncodeContent(coding, text);
      for (const size_t piece : {1, 3, 1000, 1 << 20}) {
        const auto decoded = Decode(coding, encoded, piece);
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        EXPECT_EQ(*decoded, text);
      }
    }
  }
}

TEST(ContentCoding, TakesRawDeflateAndConcatenatedGzip) {
  const std::string text = SomeText(5000);
  const std::string zlib = EncodeContent(ContentCoding::kDeflate, text);
  const std::string raw = zlib.substr(2, zlib.size() - 6);  // without header and checksum
  EXPECT_EQ(*Decode(ContentCoding::kDeflate, raw), text);
  const std::string gzip = EncodeContent(ContentCoding::kGzip, text);
  EXPECT_EQ(*Decode(ContentCoding::kGzip, gzip + gzip), text + text);
}

TEST(ContentCoding, StopsABombAtTheLimit) {
  const std::string bomb = EncodeContent(ContentCoding::kGzip, std::string(100 << 20, 'a'));
  ASSERT_LT(bomb.size(), size_t{1} << 20);
  const auto decoded = Decode(ContentCoding::kGzip, bomb);
  EXPECT_EQ(decoded.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(
      Decode(ContentCoding::kGzip, EncodeContent(ContentCoding::kGzip, "12345"), 9, 5).ok());
  EXPECT_FALSE(
      Decode(ContentCoding::kGzip, EncodeContent(ContentCoding::kGzip, "123456"), 9, 5).ok());
  EXPECT_FALSE(Decode(ContentCoding::kIdentity, "123456", 4, 5).ok());
}

TEST(ContentCoding, RefusesDamagedAndTruncatedData) {
  const std::string gzip = EncodeContent(ContentCoding::kGzip, SomeText(5000));
  EXPECT_FALSE(Decode(ContentCoding::kGzip, "this is not gzip").ok());
  EXPECT_FALSE(Decode(ContentCoding::kGzip, gzip.substr(0, gzip.size() / 2)).ok());
  EXPECT_FALSE(Decode(ContentCoding::kGzip, gzip + "garbage").ok());
  const std::string zlib = EncodeContent(ContentCoding::kDeflate, SomeText(5000));
  EXPECT_FALSE(Decode(ContentCoding::kDeflate, zlib + zlib).ok());
  std::string damaged = gzip;
  damaged[damaged.size() / 2] ^= 0x55;
  EXPECT_FALSE(Decode(ContentCoding::kGzip, damaged).ok());
}

TEST(ContentCoding, SurvivesRandomData) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string data(random() % 300, '\0');
    for (char& c : data) c = static_cast<char>(random());
    if (data.size() > 2 && i % 2 == 0) data.replace(0, 2, "\x1f\x8b");
    for (const ContentCoding coding : {ContentCoding::kGzip, ContentCoding::kDeflate}) {
      const auto decoded = Decode(coding, data, 1 + random() % 50);
      EXPECT_TRUE(!decoded.ok() || decoded->size() <= kLimit);
    }
  }
}

TEST(ContentCoding, ChoosesByWeight) {
  EXPECT_EQ(ChooseContentCoding("gzip, deflate, br"), ContentCoding::kGzip);
  EXPECT_EQ(ChooseContentCoding("deflate"), ContentCoding::kDeflate);
  EXPECT_EQ(ChooseContentCoding("gzip;q=0.2, deflate;q=0.7"), ContentCoding::kDeflate);
  EXPECT_EQ(ChooseContentCoding("GZIP; Q=1.0"), ContentCoding::kGzip);
  EXPECT_EQ(ChooseContentCoding("gzip;q=0, *"), ContentCoding::kDeflate);
  EXPECT_EQ(ChooseContentCoding("identity"), ContentCoding::kIdentity);
  EXPECT_EQ(ChooseContentCoding("br;q=1, gzip;q=x"), ContentCoding::kIdentity);
  EXPECT_EQ(ChooseContentCoding(""), ContentCoding::kIdentity);
}

TEST(ContentCoding, KnowsItsNames) {
  EXPECT_EQ(*ParseContentCoding(" GZip "), ContentCoding::kGzip);
  EXPECT_EQ(*ParseContentCoding("x-gzip"), ContentCoding::kGzip);
  EXPECT_EQ(*ParseContentCoding("identity"), ContentCoding::kIdentity);
  EXPECT_EQ(ParseContentCoding("br").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ParseContentCoding("gzip, deflate").status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace caravan
