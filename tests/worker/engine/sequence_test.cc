#include "worker/engine/sequence.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

namespace caravan {
namespace {

constexpr int32_t kStop = 7;
constexpr int32_t kUnlimited = 1000;

SamplingParams Limits(int32_t min_tokens, int32_t max_tokens) {
  SamplingParams sampling;
  sampling.stop_token_ids = {kStop};
  sampling.min_tokens = min_tokens;
  sampling.max_tokens = max_tokens;
  return sampling;
}

Sequence MakeSequence(int32_t prompt, int32_t num_resumed, const SamplingParams& sampling) {
  Request request;
  request.prompt.resize(prompt);
  request.num_resumed = num_resumed;
  request.sampling = sampling;
  const SequenceRank rank = RankOf(request, absl::UnixEpoch(), 0, 0);
  return Sequence(std::make_shared<const Request>(std::move(request)), rank, 16);
}

TEST(Sequence, EndsAtAStopTokenOnlyOnceMinTokensAreThere) {
  Sequence sequence = MakeSequence(3, 0, Limits(2, 10));
  EXPECT_EQ(sequence.Append(kStop, kUnlimited), FinishReason::kNone);
  EXPECT_EQ(sequence.Append(kStop, kUnlimited), FinishReason::kNone);
  EXPECT_EQ(sequence.Append(kStop, kUnlimited), FinishReason::kStopToken);
}

TEST(Sequence, CountsTheTokensOfEarlierAttempts) {
  Sequence sequence = MakeSequence(9, 4, Limits(5, 6));
  EXPECT_EQ(sequence.emitted(), 4);
  EXPECT_EQ(sequence.Append(kStop, kUnlimited), FinishReason::kNone);
  EXPECT_EQ(sequence.Append(1, kUnlimited), FinishReason::kLength);
}

TEST(Sequence, AStopTokenThatIsAlsoTheLastIsAStop) {
  Sequence sequence = MakeSequence(3, 0, Limits(0, 1));
  EXPECT_EQ(sequence.Append(kStop, kUnlimited), FinishReason::kStopToken);
}

TEST(Sequence, EndsInAStopSequenceThatMayBeginInThePrompt) {
  SamplingParams sampling = Limits(2, 10);
  sampling.stop_sequences = {{0, 4}, {4, 5, 6}};
  Sequence sequence = MakeSequence(3, 0, sampling);
  EXPECT_EQ(sequence.Append(4, kUnlimited), FinishReason::kNone) << "min_tokens";
  EXPECT_EQ(sequence.Append(5, kUnlimited), FinishReason::kNone);
  EXPECT_EQ(sequence.Append(6, kUnlimited), FinishReason::kStopSequence);
  sampling.min_tokens = 0;
  EXPECT_EQ(MakeSequence(3, 0, sampling).Append(4, kUnlimited), FinishReason::kStopSequence);
}

TEST(Sequence, EndsWhereTheContextIsFull) {
  Sequence sequence = MakeSequence(3, 0, Limits(0, 10));
  EXPECT_EQ(sequence.Append(1, 5), FinishReason::kNone);
  EXPECT_EQ(sequence.Append(1, 5), FinishReason::kLength);
}

TEST(Sequence, LacksNothingOnceItsLastTokenIsDrawn) {
  Sequence sequence = MakeSequence(3, 0, Limits(0, 2));
  EXPECT_EQ(sequence.lacking(kUnlimited), 3);
  sequence.computed = 3;
  sequence.in_flight = 1;
  EXPECT_EQ(sequence.lacking(kUnlimited), 1);
  EXPECT_EQ(sequence.lacking(4), 0) << "the context is full";
  sequence.computed = 4;
  sequence.in_flight = 2;
  EXPECT_EQ(sequence.lacking(kUnlimited), 0);
}

TEST(Sequence, RanksByPriorityThenDeadlineThenArrival) {
  Request plain;
  Request urgent;
  urgent.priority = -1;
  Request hurried;
  hurried.deadline = absl::UnixEpoch() + absl::Seconds(1);
  const auto rank = [](const Request& request, int64_t seconds, uint64_t order) {
    return RankOf(request, absl::UnixEpoch() + absl::Seconds(seconds), order, 0);
  };
  EXPECT_LT(rank(urgent, 0, 9), rank(hurried, 0, 8));
  EXPECT_LT(rank(hurried, 0, 8), rank(plain, 0, 7));
  EXPECT_LT(rank(plain, 0, 7), rank(plain, 0, 8));
  EXPECT_LT(rank(plain, 0, 8), rank(urgent, 31, 9)) << "a head start of 30 s, no more";
}

}  // namespace
}  // namespace caravan
