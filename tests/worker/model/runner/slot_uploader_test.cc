#include "worker/model/runner/slot_uploader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>

#include "tests/worker/model/runner/model_target_fixture.h"

namespace caravan {
namespace {

RunnerLimits Limits() {
  RunnerLimits limits;
  limits.max_slots = 4;
  limits.max_batch_tokens = 16;
  limits.max_context_tokens = 200000;  // more than one upload holds
  return limits;
}

class SlotUploaderTest : public testing::TestWithParam<ModelTarget> {
 protected:
  void SetUp() override {
    CARAVAN_SKIP_WITHOUT_MODEL_TARGET(GetParam());
    cuda_ = OpenStream(GetParam());
    buffers_ = *StepBuffers::Allocate(Limits(), /*rope_bytes=*/0, StreamOf(cuda_));
    uploader_.emplace(&buffers_, Limits().max_slots, StreamOf(cuda_));
    uploader_->Begin(&buffers_.staging(0));
  }
  std::vector<int32_t> Read(const int32_t* words, size_t count) {
    std::vector<int32_t> values(count);
    const auto bytes = static_cast<int64_t>(count * sizeof(int32_t));
    EnqueueDownload(values.data(), words, bytes, StreamOf(cuda_));
    if (cuda_ != nullptr) cuda_->Synchronize();
    return values;
  }
  std::vector<int32_t> Tokens(int32_t slot, size_t count) {
    const SlotTables& tables = buffers_.device().tables;
    return Read(tables.tokens + slot * tables.token_stride, count);
  }

  std::unique_ptr<CudaStream> cuda_;
  StepBuffers buffers_;
  std::optional<SlotUploader> uploader_;
};

TEST_P(SlotUploaderTest, SendsRowsAndChanges) {
  const std::vector<StepRow> rows = {{.slot = 2, .start_position = 5}, {.slot = 1}};
  const std::vector<int32_t> words = {4, 5, 6};
  uploader_->Change(SlotArray::kTokens, 2, 7, words);
  uploader_->Change(SlotArray::kBlocks, 2, 0, words);
  uploader_->Send(rows);
  EXPECT_THAT(Tokens(2, 10), testing::ElementsAre(0, 0, 0, 0, 0, 0, 0, 4, 5, 6));
  const SlotTables& tables = buffers_.device().tables;
  EXPECT_EQ(Read(tables.blocks + 2 * tables.block_stride, 3), words);
  const auto* sent = reinterpret_cast<const int32_t*>(buffers_.device().rows.data());
  const auto* wanted = reinterpret_cast<const int32_t*>(rows.data());
  const size_t count = rows.size() * sizeof(StepRow) / sizeof(int32_t);
  EXPECT_EQ(Read(sent, count), std::vector<int32_t>(wanted, wanted + count));
}

TEST_P(SlotUploaderTest, ALaterChangeOverwritesAnEarlierOne) {
  const std::vector<int32_t> first = {1, 2, 3, 4};
  const std::vector<int32_t> second = {8, 9};
  uploader_->Change(SlotArray::kTokens, 0, 0, first);
  uploader_->Change(SlotArray::kTokens, 0, 1, second);
  uploader_->Change(SlotArray::kTokens, 1, 0, second);  // no overlap
  uploader_->Send({});
  EXPECT_THAT(Tokens(0, 4), testing::ElementsAre(1, 8, 9, 4));
  EXPECT_THAT(Tokens(1, 2), testing::ElementsAre(8, 9));
}

// Three prompts that one upload can't hold together, and the changes of the step after.
TEST_P(SlotUploaderTest, SendsMoreThanOneUploadHolds) {
  std::vector<std::vector<int32_t>> prompts;
  for (int32_t slot = 0; slot < 3; ++slot) {
    std::vector<int32_t>& prompt = prompts.emplace_back(150000 + 1000 * slot);
    std::iota(prompt.begin(), prompt.end(), slot);
    uploader_->Change(SlotArray::kTokens, slot, 0, prompt);
  }
  uploader_->Send({});
  for (int32_t slot = 0; slot < 3; ++slot) {
    const std::vector<int32_t>& prompt = prompts[static_cast<size_t>(slot)];
    EXPECT_EQ(Tokens(slot, prompt.size()), prompt);
  }
  uploader_->Begin(&buffers_.staging(1));
  const std::vector<int32_t> word = {-7};
  uploader_->Change(SlotArray::kTokens, 0, 1, word);
  uploader_->Send({});
  EXPECT_THAT(Tokens(0, 3), testing::ElementsAre(0, -7, 2));
}

TEST_P(SlotUploaderTest, RandomChangesGiveWhatTheyGiveInOrder) {
  std::mt19937 random(1);
  std::vector<int32_t> expected(3000, 0);
  for (int step = 0; step < 20; ++step) {
    uploader_->Begin(&buffers_.staging(static_cast<uint64_t>(step)));
    for (int i = 0; i < 30; ++i) {
      std::vector<int32_t> words(1 + random() % 200);
      for (int32_t& word : words) word = static_cast<int32_t>(random());
      const auto offset = static_cast<int32_t>(random() % (expected.size() - words.size()));
      uploader_->Change(SlotArray::kTokens, 3, offset, words);
      std::copy(words.begin(), words.end(), expected.begin() + offset);
    }
    uploader_->Send({});
    ASSERT_EQ(Tokens(3, expected.size()), expected) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SlotUploaderTest,
                         testing::Values(ModelTarget{}, ModelTarget{.device = Device::kCuda}),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace caravan
