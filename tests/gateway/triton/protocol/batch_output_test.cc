#include "gateway/triton/protocol/batch_output.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

void Add(OutputSequence* sequence, int32_t id, const std::string& text, float log_prob) {
  sequence->token_ids.push_back(id);
  sequence->text.append(text);
  sequence->text_ends.push_back(static_cast<uint32_t>(sequence->text.size()));
  sequence->log_probs.push_back(log_prob);
  const double before = sequence->cum_log_probs.empty() ? 0 : sequence->cum_log_probs.back();
  sequence->cum_log_probs.push_back(before + log_prob);
}

// Row 0: prompt of 3, row 1: prompt of 1 (padded to 3), at most 4 and 2 new tokens.
BatchOutput TwoRows(OutputView view = {}) {
  BatchOutput output(1, view);
  output.AddRow({{1, 11, 12}, 4, 2});
  output.AddRow({{1}, 2, 99});
  for (const int32_t id : {21, 22, 23}) Add(&output.sequence(0), id, "a", -1);
  Add(&output.sequence(1), 31, "b", -0.5F);
  return output;
}

std::vector<uint32_t> Ids(const InferOutput& output) {
  std::vector<uint32_t> ids;
  for (size_t i = 0; i < output.data.size() / 4; ++i) {
    ids.push_back(ElementAt<uint32_t>(output.data, i));
  }
  return ids;
}

TEST(BatchOutput, PutsOutputAfterTheRealPromptAndFillsTheTail) {
  BatchOutput output = TwoRows();
  output.sequence(1).ended = true;
  const InferOutput ids = output.TokenIds("output_ids", 3, 0, true);
  EXPECT_EQ(ids.shape, (Shape{2, 1, 7}));
  EXPECT_EQ(Ids(ids), (std::vector<uint32_t>{1, 11, 12, 21, 22, 23, 2,  //
                                             1, 31, 99, 99, 99, 99, 99}));
  EXPECT_EQ(Ids(output.SequenceLength("sequence_length", 3)), (std::vector<uint32_t>{6, 4}))
      << "the padded prompt counts";
}

TEST(BatchOutput, StepsGoAsFarAsTheSlowestRowThatHasNotEnded) {
  BatchOutput output = TwoRows();
  EXPECT_EQ(output.complete_steps(), 1);
  output.sequence(1).ended = true;
  EXPECT_EQ(output.complete_steps(), 3);
  EXPECT_FALSE(output.all_ended());
  output.sequence(0).ended = true;
  EXPECT_TRUE(output.all_ended());
  EXPECT_EQ(output.complete_steps(), 3);
}

TEST(BatchOutput, ShowsAnEarlierStep) {
  BatchOutput output = TwoRows();
  EXPECT_EQ(Ids(output.TokenIds("output_ids", 1, 0, true))[4], 2u);
  EXPECT_EQ(UnpackBytes(output.Text("OUTPUT_0", 2, true).data)[0], "aa");
  const InferOutput log_probs = output.OutputLogProbs("output_log_probs", 2, 0);
  EXPECT_EQ(log_probs.shape, (Shape{2, 1, 4}));
  EXPECT_EQ(ElementAt<float>(log_probs.data, 1), -1);
  EXPECT_EQ(ElementAt<float>(log_probs.data, 2), 0);
  EXPECT_EQ(ElementAt<float>(output.CumLogProbs("cum_log_probs", 2).data, 0), -2);
}

TEST(BatchOutput, PutsWhatLeadsATextBeforeIt) {
  BatchOutput output = TwoRows();
  const std::string prompt = "prompt, ";
  output.sequence(0).lead = prompt;
  const InferOutput text = output.Text("OUTPUT_0", 2, true);
  EXPECT_EQ(UnpackBytes(text.data)[0], "prompt, aa");
  EXPECT_EQ(UnpackBytes(output.Text("OUTPUT_0", 0, true).data)[0], "prompt, ");
  EXPECT_EQ(UnpackBytes(text.data).size(), 2u);
}

TEST(BatchOutput, DeltaHasEachTokenAndTextOnce) {
  BatchOutput output = TwoRows({/*exclude_input=*/false, /*delta=*/true});
  EXPECT_EQ(Ids(output.TokenIds("output_ids", 1, 0, true)),
            (std::vector<uint32_t>{1, 11, 12, 21, 1, 31, 99, 99}));
  EXPECT_EQ(UnpackBytes(output.Text("text", 1, false).data)[0], "a");
  Add(&output.sequence(1), 32, "b", -0.5F);
  output.sequence(1).text.append("held");
  output.sequence(1).ended = true;
  const InferOutput rest = output.TokenIds("output_ids", 3, 1, false);
  EXPECT_EQ(rest.shape, (Shape{2, 1, 2}));
  EXPECT_EQ(Ids(rest), (std::vector<uint32_t>{22, 23, 32, 99}));
  const InferOutput text = output.Text("text", 3, false);
  EXPECT_EQ(UnpackBytes(text.data)[0], "aa");
  EXPECT_EQ(UnpackBytes(text.data)[1], "bheld") << "what came after the last token is not lost";
  EXPECT_EQ(UnpackBytes(output.Text("text", 3, false).data)[1], "");
}

TEST(BatchOutput, LeavesThePromptOutWhereAsked) {
  BatchOutput output = TwoRows({/*exclude_input=*/true, /*delta=*/false});
  const InferOutput ids = output.TokenIds("output_ids", 3, 0, true);
  EXPECT_EQ(ids.shape, (Shape{2, 1, 4}));
  EXPECT_EQ(Ids(ids)[0], 21u);
  EXPECT_EQ(Ids(output.SequenceLength("sequence_length", 3))[0], 3u);
}

}  // namespace
}  // namespace caravan
