#include "worker/model/number_format.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace caravan {
namespace {

template <typename To, typename From>
To Convert(From value, DType from, DType to) {
  To out{};
  ConvertElements(&value, from, &out, to, 1);
  return out;
}

uint16_t ToFloat16(float value) {
  return Convert<uint16_t>(value, DType::kFloat32, DType::kFloat16);
}
uint16_t ToBFloat16(float value) {
  return Convert<uint16_t>(value, DType::kFloat32, DType::kBFloat16);
}

TEST(ConvertElements, AgreesWithTheCompilersFloat16OnEveryValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = std::bit_cast<_Float16>(static_cast<uint16_t>(bits));
    const auto wide = Convert<float>(static_cast<uint16_t>(bits), DType::kFloat16, DType::kFloat32);
    if (std::isnan(static_cast<float>(half))) {
      EXPECT_TRUE(std::isnan(wide));
      EXPECT_TRUE(std::isnan(static_cast<float>(std::bit_cast<_Float16>(ToFloat16(wide)))));
    } else {
      ASSERT_EQ(wide, static_cast<float>(half)) << bits;
      ASSERT_EQ(ToFloat16(wide), bits);
    }
  }
}

TEST(ConvertElements, RoundsFloat16AsTheCompilerDoes) {
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    // Exponents around float16's range, from far below its subnormals to beyond its infinity.
    const uint32_t exponent = 95 + static_cast<uint32_t>(random()) % 50;
    const auto bits = (static_cast<uint32_t>(random()) & 0x807fffffU) | exponent << 23;
    const auto value = std::bit_cast<float>(bits);
    ASSERT_EQ(ToFloat16(value), std::bit_cast<uint16_t>(static_cast<_Float16>(value))) << value;
  }
  for (const float value : {65519.0F, 65520.0F, 0x1p-24F, 0x1p-25F, 0x1.8p-25F, 0x1p-14F, 0.0F}) {
    EXPECT_EQ(ToFloat16(value), std::bit_cast<uint16_t>(static_cast<_Float16>(value))) << value;
  }
}

TEST(ConvertElements, RoundsBFloat16ToNearestEven) {
  EXPECT_EQ(ToBFloat16(1.0F), 0x3f80);
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808000U)), 0x3f80) << "a tie, down to even";
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f818000U)), 0x3f82) << "a tie, up to even";
  EXPECT_EQ(ToBFloat16(std::bit_cast<float>(0x3f808001U)), 0x3f81);
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::max()), 0x7f80) << "infinity";
  EXPECT_EQ(ToBFloat16(-std::numeric_limits<float>::infinity()), 0xff80);
  const uint16_t nan = ToBFloat16(std::bit_cast<float>(0x7f800001U));
  EXPECT_TRUE(std::isnan(Convert<float>(nan, DType::kBFloat16, DType::kFloat32)));
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const auto wide =
        Convert<float>(static_cast<uint16_t>(bits), DType::kBFloat16, DType::kFloat32);
    ASSERT_EQ(ToBFloat16(wide), bits);
  }
}

TEST(ConvertElements, GoesBetweenTheTwoShortFormats) {
  EXPECT_EQ((Convert<uint16_t>(uint16_t{0x3c00}, DType::kFloat16, DType::kBFloat16)), 0x3f80);
  EXPECT_EQ((Convert<uint16_t>(uint16_t{0xc000}, DType::kBFloat16, DType::kFloat16)), 0xc000);
}

}  // namespace
}  // namespace caravan
