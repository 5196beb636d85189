#include "kernels/slot_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "tests/kernels/target_fixture.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr float kBanned = -std::numeric_limits<float>::infinity();
constexpr int32_t kSlots = 5;
constexpr int32_t kVocab = 50;

// A sequence as a host would know it.
struct Sequence {
  std::vector<int32_t> tokens;
  SlotSampling sampling;
  std::vector<TokenBias> biases;
  std::vector<std::vector<int32_t>> bad_words;
  std::vector<int32_t> stop_ids;

  // The words of its lists; sets their numbers in `sampling`.
  std::vector<int32_t> PackLists() {
    std::vector<int32_t> words;
    for (const TokenBias& bias : biases) {
      words.push_back(bias.token_id);
      words.push_back(std::bit_cast<int32_t>(bias.bias));
    }
    int32_t end = 0;
    for (const auto& word : bad_words) {
      words.push_back(end += static_cast<int32_t>(word.size()));
    }
    for (const auto& word : bad_words) words.insert(words.end(), word.begin(), word.end());
    words.insert(words.end(), stop_ids.begin(), stop_ids.end());
    sampling.num_biases = static_cast<int32_t>(biases.size());
    sampling.num_bad_words = static_cast<int32_t>(bad_words.size());
    sampling.num_bad_word_ids = end;
    sampling.num_stop_ids = static_cast<int32_t>(stop_ids.size());
    return words;
  }
};

class SlotTablesTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    CARAVAN_SKIP_WITHOUT(GetParam());
    run_ = std::make_unique<TargetRun>(GetParam());
    tables_.num_slots = kSlots;
    tables_.token_stride = 6000;
    tables_.block_stride = 70;
    tables_.list_stride = 300;
    const auto words = [](int64_t stride) { return static_cast<size_t>(kSlots * stride); };
    tokens_.assign(words(tables_.token_stride), -7);
    blocks_.assign(words(tables_.block_stride), -7);
    lists_.assign(words(tables_.list_stride), -7);
    sampling_.resize(kSlots);
    tables_.tokens = run_->Out(tokens_).data();
    tables_.blocks = run_->Out(blocks_).data();
    tables_.lists = run_->Out(lists_).data();
    tables_.sampling = run_->Out(sampling_).data();
  }

  void Apply(SlotUpdateBuffer& buffer) {
    SlotUpload upload = buffer.Finish();
    const std::vector<int32_t> words(upload.words, upload.words + upload.num_words());
    uploads_.push_back(words);  // outlives the run
    upload.words = run_->In(uploads_.back()).data();
    ApplySlotUpdates(tables_, upload, run_->stream());
  }

  void Setup(int32_t slot, Sequence sequence) {
    std::vector<int32_t> memory(20000);
    SlotUpdateBuffer buffer(memory);
    const std::vector<int32_t> lists = sequence.PackLists();
    buffer.Add(SlotArray::kTokens, slot, 0, sequence.tokens);
    buffer.Add(SlotArray::kLists, slot, 0, lists);
    buffer.AddSampling(slot, sequence.sampling);
    Apply(buffer);
  }

  // BuildStepInputs, with the memory for its results; call once in a test, or between Finish.
  struct Inputs {
    std::vector<int32_t> token_ids, rope_rows, query_starts, context_lengths, table_rows,
        logit_rows;
    std::vector<SamplingRow> sampling;
    std::vector<TokenBias> biases;
    StepInputs there;  // on the target

    // The biases of a row, summed for each id.
    std::map<int32_t, float> Biases(size_t sample) const {
      std::map<int32_t, float> sums;
      const auto begin = sampling[sample].biases.data() - there.biases.data();
      for (size_t i = 0; i < sampling[sample].biases.size(); ++i) {
        const TokenBias& bias = biases[static_cast<size_t>(begin) + i];
        sums[bias.token_id] += bias.bias;
      }
      return sums;
    }
  };

  void Build(const std::vector<StepRow>& rows, Inputs& inputs) {
    size_t tokens = 0;
    size_t samples = 0;
    for (const StepRow& row : rows) {
      tokens += static_cast<size_t>(row.num_tokens);
      samples += row.sample_row >= 0;
    }
    inputs.token_ids.assign(tokens, -9);
    inputs.rope_rows.assign(tokens, -9);
    inputs.query_starts.assign(rows.size() + 1, -9);
    inputs.context_lengths.assign(rows.size(), -9);
    inputs.table_rows.assign(rows.size(), -9);
    inputs.logit_rows.assign(samples, -9);
    inputs.sampling.resize(samples);
    inputs.biases.resize(samples * kMaxComposedBiases);
    inputs.there = {run_->Out(inputs.token_ids),    run_->Out(inputs.rope_rows),
                    run_->Out(inputs.query_starts), run_->Out(inputs.context_lengths),
                    run_->Out(inputs.table_rows),   run_->Out(inputs.logit_rows),
                    run_->Out(inputs.sampling),     run_->Out(inputs.biases)};
    rows_.push_back(rows);
    BuildStepInputs(tables_, run_->In(rows_.back()), kVocab, inputs.there, run_->stream());
  }

  int32_t Token(int32_t slot, int64_t position) const {
    return tokens_[static_cast<size_t>(slot * tables_.token_stride + position)];
  }

  SlotTables tables_;
  std::vector<int32_t> tokens_, blocks_, lists_;
  std::vector<SlotSampling> sampling_;
  std::deque<std::vector<int32_t>> uploads_;
  std::deque<std::vector<StepRow>> rows_;
  std::unique_ptr<TargetRun> run_;
};

TEST_P(SlotTablesTest, AppliesUpdatesAndLeavesTheRestAlone) {
  std::mt19937 random(1);
  const auto draw = [&](int64_t below) { return static_cast<int32_t>(random() % below); };
  std::vector<int32_t> memory(40000);
  SlotUpdateBuffer buffer(memory);
  std::map<SlotArray, std::vector<int32_t>> expected;
  const std::pair<SlotArray, int64_t> arrays[] = {{SlotArray::kTokens, tables_.token_stride},
                                                  {SlotArray::kBlocks, tables_.block_stride},
                                                  {SlotArray::kLists, tables_.list_stride}};
  for (const auto& [array, stride] : arrays) {
    expected[array].assign(static_cast<size_t>(kSlots * stride), -7);
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      // Behind one another, with gaps, the last one to the end of the slot's part.
      for (int32_t offset = draw(3); offset < stride; offset += draw(9)) {
        const int64_t most = stride - offset;
        const int32_t count = draw(4) == 0 ? static_cast<int32_t>(most) : 1 + draw(most);
        std::vector<int32_t> words(static_cast<size_t>(count));
        for (int32_t& word : words) word = draw(1 << 30);
        if (count > buffer.room()) break;
        buffer.Add(array, slot, offset, words);
        std::copy(words.begin(), words.end(), expected[array].begin() + slot * stride + offset);
        offset += count;
      }
    }
  }
  SlotSampling sampling;
  sampling.seed = 0x123456789abcdefULL;
  sampling.num_stop_ids = 17;
  buffer.AddSampling(3, sampling);
  Apply(buffer);
  run_->Finish();
  EXPECT_EQ(tokens_, expected[SlotArray::kTokens]);
  EXPECT_EQ(blocks_, expected[SlotArray::kBlocks]);
  EXPECT_EQ(lists_, expected[SlotArray::kLists]);
  EXPECT_EQ(sampling_[3].seed, sampling.seed);
  EXPECT_EQ(sampling_[3].num_stop_ids, 17);
  EXPECT_EQ(sampling_[2].num_stop_ids, 0);
}

TEST_P(SlotTablesTest, GathersWhatARaggedStepNeeds) {
  Sequence longer;
  for (int32_t i = 0; i < 5000; ++i) longer.tokens.push_back(i % 1000);
  longer.sampling.prompt_tokens = 4999;
  Setup(4, longer);
  Sequence shorter;
  shorter.tokens = {11, 12, 13, 14, 15, 16};
  shorter.sampling.prompt_tokens = 6;
  Setup(0, shorter);
  Inputs inputs;
  Build({{.slot = 0, .start_position = 5, .num_tokens = 1, .first_token = 0, .sample_row = 0},
         {.slot = -1, .first_token = 1, .sample_row = 1},
         {.slot = 4, .start_position = 4000, .num_tokens = 900, .first_token = 2},
         {.slot = 0,
          .start_position = 1,
          .num_tokens = 3,
          .first_token = 902,
          .sample_row = 2,
          .num_rope_rows = 2,
          .rope_row = 700}},
        inputs);
  run_->Finish();
  EXPECT_THAT(inputs.query_starts, ElementsAre(0, 1, 2, 902, 905));
  EXPECT_THAT(inputs.context_lengths, ElementsAre(6, 0, 4900, 4));
  EXPECT_THAT(inputs.table_rows, ElementsAre(0, 0, 4, 0));
  EXPECT_THAT(inputs.logit_rows, ElementsAre(0, 1, 904));
  std::vector<int32_t> ids = {16, -1};
  std::vector<int32_t> rope_rows = {5, 0};
  for (int32_t p = 4000; p < 4900; ++p) {
    ids.push_back(p % 1000);
    rope_rows.push_back(p);
  }
  ids.insert(ids.end(), {12, 13, 14});
  rope_rows.insert(rope_rows.end(), {700, 701, 3});
  EXPECT_THAT(inputs.token_ids, ElementsAreArray(ids));
  EXPECT_THAT(inputs.rope_rows, ElementsAreArray(rope_rows));
  EXPECT_FALSE(inputs.sampling[0].skipped);
  EXPECT_TRUE(inputs.sampling[1].skipped);
  EXPECT_EQ(inputs.sampling[2].position, 4);
}

TEST_P(SlotTablesTest, PassesOnTheSamplingParameters) {
  Sequence sequence;
  sequence.tokens = {1, 2, 3, 4};
  sequence.sampling = {.seed = uint64_t{1} << 60,
                       .sample_index = 3,
                       .repetition_penalty = 1.1F,
                       .frequency_penalty = 0.2F,
                       .presence_penalty = 0.3F,
                       .temperature = 0.7F,
                       .top_k = 5,
                       .top_p = 0.9F,
                       .min_p = 0.1F,
                       .num_logprobs = 4,
                       .processed_logprobs = 1,
                       .prompt_tokens = 2};
  Setup(1, sequence);
  sequence.sampling.penalize_prompt = 1;
  Setup(2, sequence);
  sequence.sampling = {};
  Setup(3, sequence);
  Inputs inputs;
  std::vector<StepRow> rows;
  rows.reserve(3);
  for (int32_t r = 0; r < 3; ++r) {
    rows.push_back({.slot = r + 1,
                    .start_position = 2,
                    .num_tokens = 2,
                    .first_token = 2 * r,
                    .sample_row = r});
  }
  Build(rows, inputs);
  run_->Finish();
  const SamplingRow& row = inputs.sampling[0];
  EXPECT_EQ(row.history.data(), tables_.tokens + tables_.token_stride);
  EXPECT_EQ(row.history.size(), 4u);
  EXPECT_EQ(row.history_prompt, 2);
  EXPECT_EQ(row.repetition_penalty, 1.1F);
  EXPECT_EQ(row.frequency_penalty, 0.2F);
  EXPECT_EQ(row.presence_penalty, 0.3F);
  EXPECT_EQ(row.temperature, 0.7F);
  EXPECT_EQ(row.top_k, 5);
  EXPECT_EQ(row.top_p, 0.9F);
  EXPECT_EQ(row.min_p, 0.1F);
  EXPECT_EQ(row.seed, uint64_t{1} << 60);
  EXPECT_EQ(row.position, 4);
  EXPECT_EQ(row.sample_index, 3u);
  EXPECT_EQ(row.num_logprobs, 4);
  EXPECT_TRUE(row.processed_logprobs);
  EXPECT_EQ(inputs.sampling[1].history_prompt, 0);
  EXPECT_TRUE(inputs.sampling[2].history.empty());
}

// Ids from a small alphabet, so that bad words match often; lists of up to 40 entries.
Sequence RandomSequence(std::mt19937& random) {
  const auto draw = [&](int32_t below) { return static_cast<int32_t>(random() % below); };
  Sequence sequence;
  for (int32_t i = 0, n = 1 + draw(300); i < n; ++i) sequence.tokens.push_back(draw(3));
  sequence.sampling.prompt_tokens = 1 + draw(static_cast<int32_t>(sequence.tokens.size()));
  sequence.sampling.min_tokens = draw(200);
  for (int32_t i = 0, n = draw(20); i < n; ++i) {
    sequence.biases.push_back({3 * i + draw(3) - 1, 0.5F * static_cast<float>(draw(9))});
  }
  for (int32_t i = 0, n = draw(40); i < n; ++i) {
    std::vector<int32_t> word;
    for (int32_t j = 0, length = draw(5); j < length; ++j) word.push_back(draw(3));
    if (!word.empty()) word.back() = draw(kVocab + 5);
    sequence.bad_words.push_back(word);
  }
  for (int32_t i = 0, n = draw(20); i < n; ++i) sequence.stop_ids.push_back(draw(kVocab + 5));
  return sequence;
}

std::map<int32_t, float> ExpectedBiases(const Sequence& sequence) {
  std::map<int32_t, float> sums;
  const auto add = [&](int32_t id, float bias) {
    if (id >= 0 && id < kVocab) sums[id] += bias;
  };
  const std::vector<int32_t>& tokens = sequence.tokens;
  for (const TokenBias& bias : sequence.biases) add(bias.token_id, bias.bias);
  for (const auto& word : sequence.bad_words) {
    if (word.empty() || word.size() - 1 > tokens.size()) continue;
    const auto before = tokens.end() - static_cast<int64_t>(word.size() - 1);
    if (std::equal(before, tokens.end(), word.begin())) add(word.back(), kBanned);
  }
  const auto generated = static_cast<int32_t>(tokens.size()) - sequence.sampling.prompt_tokens;
  if (generated < sequence.sampling.min_tokens) {
    for (const int32_t id : sequence.stop_ids) add(id, kBanned);
  }
  return sums;
}

TEST_P(SlotTablesTest, ComposesBiasesBadWordsAndBannedStops) {
  std::mt19937 random(7);
  size_t composed = 0;
  for (int round = 0; round < 40; ++round) {
    std::vector<Sequence> sequences;
    std::vector<StepRow> rows;
    for (int32_t slot = 0; slot < kSlots; ++slot) {
      sequences.push_back(RandomSequence(random));
      Setup(slot, sequences.back());
      rows.push_back({.slot = slot,
                      .start_position = static_cast<int32_t>(sequences.back().tokens.size()) - 1,
                      .first_token = slot,
                      .sample_row = kSlots - 1 - slot});
    }
    Inputs inputs;
    Build(rows, inputs);
    run_->Finish();
    for (size_t slot = 0; slot < kSlots; ++slot) {
      const auto expected = ExpectedBiases(sequences[slot]);
      EXPECT_EQ(inputs.Biases(kSlots - 1 - slot), expected) << "round " << round;
      composed += expected.size();
    }
    SetUp();
  }
  EXPECT_GT(composed, 1000u);
}

TEST_P(SlotTablesTest, DecaysTopPSinceTheLastReset) {
  const auto n_of = [](const Sequence& s) {
    int n = 0;
    for (size_t i = s.tokens.size(); static_cast<int32_t>(i) > s.sampling.prompt_tokens; --i, ++n) {
      if (s.tokens[i - 1] == s.sampling.top_p_reset_id) break;
    }
    return n;
  };
  Sequence sequence;
  sequence.sampling = {.top_p = 0.8F,
                       .prompt_tokens = 3,
                       .top_p_decay = 0.9F,
                       .top_p_min = 0.1F,
                       .top_p_reset_id = 5};
  std::vector<std::vector<int32_t>> histories = {
      {5, 5, 5}, {5, 1, 1, 2}, {5, 1, 1, 2, 5, 3, 3, 5, 6, 6, 6}, {5, 1, 1, 2, 2, 5}};
  histories.push_back(std::vector<int32_t>(900, 1));
  Inputs inputs;
  std::vector<StepRow> rows;
  for (int32_t slot = 0; slot < kSlots; ++slot) {
    sequence.tokens = histories[static_cast<size_t>(slot)];
    Setup(slot, sequence);
    rows.push_back({.slot = slot,
                    .start_position = static_cast<int32_t>(sequence.tokens.size()) - 1,
                    .first_token = slot,
                    .sample_row = slot});
  }
  Build(rows, inputs);
  run_->Finish();
  for (size_t slot = 0; slot < kSlots; ++slot) {
    sequence.tokens = histories[slot];
    const int n = n_of(sequence);
    const double decayed = std::max(0.8 * std::pow(0.9, n), 0.1);
    // Two rounded factors, the power's error grows by one of them each time.
    EXPECT_NEAR(inputs.sampling[slot].top_p, decayed, decayed * 0x1p-24 * (n + 3)) << slot;
  }
  EXPECT_EQ(inputs.sampling[0].top_p, 0.8F);
  EXPECT_EQ(inputs.sampling[3].top_p, 0.8F);
  EXPECT_EQ(inputs.sampling[4].top_p, 0.1F);
}

// Three steps without the host: what is drawn is stored, read by the next step, and overwritten by
// ids that the host chooses.
TEST_P(SlotTablesTest, DrawnTokensFeedTheNextStep) {
  Sequence sequence;
  sequence.tokens = {3, 1};
  sequence.sampling.prompt_tokens = 2;
  sequence.sampling.repetition_penalty = 2;
  Setup(2, sequence);
  std::vector<SamplingOutput> outputs(2);
  outputs[1].token_id = 40;
  const std::vector<StepRow> first = {
      {.slot = -1, .sample_row = 0},
      {.slot = 2, .start_position = 0, .num_tokens = 2, .first_token = 1, .sample_row = 1}};
  const std::vector<StepRow> second = {
      {.slot = 2, .start_position = 2, .num_tokens = 1, .sample_row = 0}};
  StoreSampled(run_->In(first), run_->In(outputs), tables_, run_->stream());
  Inputs drawn;
  Build(second, drawn);

  std::vector<int32_t> memory(100);
  SlotUpdateBuffer buffer(memory);
  const std::vector<int32_t> chosen = {41};
  buffer.Add(SlotArray::kTokens, 2, 2, chosen);
  Apply(buffer);
  Inputs replaced;
  Build(second, replaced);
  run_->Finish();
  EXPECT_THAT(drawn.token_ids, ElementsAre(40));
  EXPECT_THAT(drawn.context_lengths, ElementsAre(3));
  EXPECT_EQ(drawn.sampling[0].history.size(), 3u);
  EXPECT_THAT(replaced.token_ids, ElementsAre(41));
  EXPECT_EQ(Token(2, 1), 1);
  EXPECT_EQ(Token(2, 2), 41);
  EXPECT_EQ(Token(2, 3), -7);
}

TEST_P(SlotTablesTest, AnEmptyStepStartsAtZero) {
  Inputs inputs;
  Build({}, inputs);
  run_->Finish();
  EXPECT_THAT(inputs.query_starts, ElementsAre(0));
}

TEST(SlotUpdateBuffer, KnowsItsRoom) {
  std::vector<int32_t> memory(20, -1);
  SlotUpdateBuffer buffer(memory);
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.room(), 15);
  buffer.Add(SlotArray::kBlocks, 1, 0, {});
  EXPECT_TRUE(buffer.empty());
  const std::vector<int32_t> words = {7, 8, 9};
  buffer.Add(SlotArray::kBlocks, 1, 4, words);
  EXPECT_EQ(buffer.room(), 7);
  buffer.Add(SlotArray::kTokens, 2, 5, std::span(words).first(2));
  EXPECT_EQ(buffer.room(), 0);
  EXPECT_FALSE(buffer.empty());
  const SlotUpload upload = buffer.Finish();
  EXPECT_EQ(upload.num_updates, 2);
  EXPECT_EQ(upload.largest_count, 3);
  EXPECT_EQ(upload.num_words(), 15);
  buffer.Clear();
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.room(), 15);
}

TEST(SlotUpdateBufferDeathTest, RefusesWhatDoesNotFit) {
  std::vector<int32_t> memory(8);
  SlotUpdateBuffer buffer(memory);
  EXPECT_DEATH(buffer.Add(SlotArray::kTokens, 0, 0, std::vector<int32_t>(4)), "room for 3");
  SlotTables tables;
  tables.num_slots = 1;
  std::vector<int32_t> tokens(4);
  tables.tokens = tokens.data();
  tables.token_stride = 4;
  buffer.Add(SlotArray::kTokens, 0, 3, std::vector<int32_t>(2));
  const SlotUpload upload = buffer.Finish();
  EXPECT_DEATH(ApplySlotUpdates(tables, upload, DeviceStream::Cpu()), "2 words from 3 of 4");
}

INSTANTIATE_TEST_SUITE_P(All, SlotTablesTest, testing::ValuesIn(AllTargets()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace caravan
