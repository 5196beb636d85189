#include "worker/model/runner/gpu_memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/model_folder_fixture.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kGibi = int64_t{1} << 30;

class GpuMemoryPlanTest : public testing::Test {
 protected:
  GpuMemoryPlanTest() {
    folder_.Write("config.json", TinyConfig().dump());
    load_.model_folder = folder_.path();
    load_.load_format = "dummy";
    load_.max_batch_tokens = 64;
    load_.max_logit_rows = 8;
    runner_.max_slots = 8;
    runner_.kv_cache_bytes = 0;
  }
  std::vector<MemoryNeed> Needs() { return GpuMemoryNeeds(*OpenLlama(load_), load_, runner_); }
  int64_t Bytes(const std::string& what) {
    for (const MemoryNeed& need : Needs()) {
      if (need.what == what) return need.bytes;
    }
    return -1;
  }

  TempFolder folder_;
  LoadOptions load_;
  LlamaRunnerOptions runner_;
};

TEST_F(GpuMemoryPlanTest, CountsWhatIsAllocated) {
  const LlamaSource source = *OpenLlama(load_);
  EXPECT_EQ(Bytes("weights"), WeightBytes(source.config, source.layout, source.dtype));
  EXPECT_GT(Bytes("activations"), 0);
  EXPECT_GT(Bytes("slot tables"), 0);
  EXPECT_GT(Bytes("CUDA graphs"), 0);
  EXPECT_EQ(Bytes("communicators"), -1);  // one rank has none
  // Without a choice, blocks for one full step: 64 tokens are 4 blocks of 16.
  const int64_t block = KvBlockBytes(source.config, source.layout, 16, source.dtype);
  EXPECT_EQ(Bytes("KV blocks of one full step"), 4 * block);
  runner_.kv_cache_bytes = 12345678;
  EXPECT_EQ(Bytes("KV blocks"), 12345678);
  runner_.cuda_graphs = false;
  EXPECT_EQ(Bytes("CUDA graphs"), -1);
  load_.shard = {0, 2};
  EXPECT_GT(Bytes("communicators"), 0);
}

// Who has loaded 16 bits was told to choose 16 bits.
TEST_F(GpuMemoryPlanTest, AdvisesSixteenBitsOnlyWhereThereAreMore) {
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    load_.dtype = dtype;
    const std::string remedy = Needs()[0].remedy;
    EXPECT_THAT(remedy, HasSubstr("a greater --tensor_parallel"));
    EXPECT_EQ(remedy.find("--dtype") != std::string::npos, std::string(dtype) == "float32")
        << dtype << ": " << remedy;
  }
}

TEST(GpuBudget, LeavesTheFractionToOthersWhoeverUsesTheRest) {
  const DeviceMemoryInfo empty = {100 * kGibi, 100 * kGibi};
  EXPECT_EQ(GpuBudget(empty, 0.9), 90 * kGibi);
  const DeviceMemoryInfo used = {60 * kGibi, 100 * kGibi};
  EXPECT_EQ(GpuBudget(used, 0.9), 50 * kGibi);
  const DeviceMemoryInfo full = {5 * kGibi, 100 * kGibi};
  EXPECT_LT(GpuBudget(full, 0.9), 0);
  LlamaRunnerOptions options;
  EXPECT_LT(KvBudget(used, options, 1), GpuBudget(used, 0.9));
  EXPECT_LT(KvBudget(used, options, 2), KvBudget(used, options, 1));
  options.cuda_graphs = false;
  EXPECT_EQ(KvBudget(used, options, 1), GpuBudget(used, 0.9)) << "no graphs, no reserve for them";
}

TEST(CheckGpuMemory, SaysWhatIsNeededWhatIsFreeWhoHoldsItAndWhatToChange) {
  const std::vector<MemoryNeed> needs = {{"weights", 14 * kGibi, "a greater --tensor_parallel"},
                                         {"activations", kGibi, "a smaller --max_batch_tokens"}};
  EXPECT_TRUE(CheckGpuMemory("GPU 0", needs, {20 * kGibi, 24 * kGibi}, 0.9, {}).ok());

  const absl::Status full = CheckGpuMemory("GPU 0 NVIDIA Test", needs, {3 * kGibi, 24 * kGibi}, 0.9,
                                           {{4711, "python3", 20 * kGibi}, {4712, "", -1}});
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(std::string(full.message()),
              AllOf(HasSubstr("GPU 0 NVIDIA Test"), HasSubstr("15.00 GiB are needed"),
                    HasSubstr("weights 14.00 GiB"), HasSubstr("activations 1.00 GiB"),
                    HasSubstr("3.00 GiB of 24.00 GiB are free"),
                    HasSubstr("process 4711 (python3) with 20.00 GiB, process 4712"),
                    HasSubstr("another --gpu"), HasSubstr("a greater --tensor_parallel")));

  // What no flag makes less is no advice, however much it is.
  const absl::Status small = CheckGpuMemory(
      "GPU 0", {{"weights", kGibi, "a smaller model"}, {"communicators", 2 * kGibi, ""}},
      {kGibi, 24 * kGibi}, 0.9, {});
  EXPECT_THAT(std::string(small.message()), HasSubstr("or a smaller model"));

  const absl::Status fraction = CheckGpuMemory("GPU 0", needs, {16 * kGibi, 24 * kGibi}, 0.9, {});
  EXPECT_THAT(std::string(fraction.message()),
              AllOf(HasSubstr("--gpu_memory_fraction=0.9 allows 13.60 GiB"),
                    HasSubstr("Raise --gpu_memory_fraction"), Not(HasSubstr("in use by"))));
}

// It said that --kv_cache_bytes is 0, which nobody had set.
TEST(CheckKvBudget, SaysWhatIsLeftAndWhatABlockTakes) {
  const LlamaRunnerOptions options;
  EXPECT_TRUE(CheckKvBudget(kGibi, kGibi, options).ok());
  const absl::Status none = CheckKvBudget(-5, 2 * kGibi, options);
  EXPECT_TRUE(absl::IsResourceExhausted(none)) << none;
  EXPECT_THAT(std::string(none.message()),
              AllOf(HasSubstr("--gpu_memory_fraction=0.9 leaves 0"), HasSubstr("2.00 GiB"),
                    HasSubstr("raise --gpu_memory_fraction")));
}

}  // namespace
}  // namespace caravan
