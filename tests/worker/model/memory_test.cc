// Memory that is taken at start: host buffers, KV blocks, and what is said when there is too
// little.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "worker/model/host_memory.h"
#include "worker/model/kv_memory.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ModelConfig Config() {
  ModelConfig config;
  config.num_layers = 3;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_size = 32;
  config.intermediate_size = 64;
  config.vocab_size = 100;
  return config;
}

TEST(HostBuffer, IsZeroedAlignedAndMovable) {
  absl::StatusOr<HostBuffer> made = HostBuffer::Allocate(3 << 20, "a test");
  ASSERT_TRUE(made.ok()) << made.status();
  HostBuffer buffer = *std::move(made);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 4096, 0U);
  const auto* bytes = buffer.as<unsigned char>();
  EXPECT_EQ(bytes[0], 0);
  EXPECT_EQ(bytes[(3 << 20) - 1], 0);
  buffer.as<unsigned char>()[5] = 7;
  const HostBuffer other = std::move(buffer);
  EXPECT_EQ(other.as<unsigned char>()[5], 7);
  EXPECT_EQ(other.bytes(), 3 << 20);
}

TEST(HostBuffer, NamesWhatCouldNotBeAllocated) {
  const absl::Status status = HostBuffer::Allocate(int64_t{1} << 62, "the moon").status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("4.00 EiB"), HasSubstr("the moon")));
  EXPECT_EQ(HostBuffer::Allocate(0, "nothing")->data(), nullptr);
}

TEST(HostMemory, ComparesWithWhatTheSystemHas) {
  const int64_t available = AvailableHostMemory();
  EXPECT_GT(available, 0);
  EXPECT_TRUE(CheckHostMemory(1, "a byte", "").ok());
  if (available == std::numeric_limits<int64_t>::max()) GTEST_SKIP() << "no /proc/meminfo";
  const absl::Status status = CheckHostMemory(int64_t{1} << 60, "the weights", "buy memory");
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the weights need 1.00 EiB"), HasSubstr("buy memory")));
}

TEST(HostMemory, WritesSizesForPeople) {
  EXPECT_EQ(BytesText(0), "0 bytes");
  EXPECT_EQ(BytesText(1023), "1023 bytes");
  EXPECT_EQ(BytesText(1536), "1.50 KiB");
  EXPECT_EQ(BytesText(int64_t{5} << 30), "5.00 GiB");
}

TEST(KvMemory, GivesEachLayerItsOwnKeysAndValues) {
  const ShardLayout layout = *MakeShardLayout(Config(), {1, 2});
  KvMemoryOptions options;
  options.block_tokens = 4;
  options.num_blocks = 5;
  options.dtype = DType::kBFloat16;
  // Keys and values, 3 layers, 2 of the 4 KV heads, 4 tokens of 32 elements of 2 bytes.
  EXPECT_EQ(KvBlockBytes(Config(), layout, 4, DType::kBFloat16), 2 * 3 * 2 * 4 * 32 * 2);
  const auto memory = KvMemory::Allocate(Config(), layout, options);
  ASSERT_TRUE(memory.ok()) << memory.status();
  for (int32_t i = 0; i < 3; ++i) {
    const KvCacheView& view = memory->layer(i);
    EXPECT_EQ(view.num_blocks, 5);
    EXPECT_EQ(view.kv_heads, 2);
    EXPECT_EQ(view.dtype, DType::kBFloat16);
    const size_t bytes = 5 * 2 * 4 * 32 * 2;
    std::memset(view.keys, 2 * i + 1, bytes);
    std::memset(view.values, 2 * i + 2, bytes);
  }
  for (int32_t i = 0; i < 3; ++i) {
    const size_t last = 5 * 2 * 4 * 32 * 2 - 1;
    EXPECT_EQ(static_cast<const unsigned char*>(memory->layer(i).keys)[last], 2 * i + 1);
    EXPECT_EQ(static_cast<const unsigned char*>(memory->layer(i).values)[last], 2 * i + 2);
  }
}

TEST(KvMemory, SaysWhatItNeedsAndWhichFlagToChange) {
  const ShardLayout layout = *MakeShardLayout(Config(), {0, 1});
  const auto error = [&](int32_t num_blocks, int64_t bytes) {
    KvMemoryOptions options;
    options.num_blocks = num_blocks;
    options.kv_cache_bytes = bytes;
    return std::string(KvMemory::Allocate(Config(), layout, options).status().message());
  };
  EXPECT_THAT(error(0, 0), AllOf(HasSubstr("--kv_cache_bytes is 0"), HasSubstr("49152 bytes")));
  EXPECT_THAT(error(0, -1), HasSubstr("neither can be negative"));
  EXPECT_THAT(error(-1, 0), HasSubstr("neither can be negative"));
  EXPECT_THAT(error(0, int64_t{1} << 55), HasSubstr("lower --kv_cache_bytes"));
  EXPECT_THAT(error(1 << 30, 0), HasSubstr("lower --kv_cache_bytes"));
}

}  // namespace
}  // namespace caravan
