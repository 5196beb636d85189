#include "gateway/triton/protocol/tensor_names.h"

#include <gtest/gtest.h>

#include "tests/gateway/triton/protocol/request_maker.h"

namespace caravan {
namespace {

std::string Named(const InferRequest& request, const std::string& message) {
  const absl::StatusOr<CheckedRequest> checked = Check(request);
  CARAVAN_CHECK(checked.ok(), std::string(checked.status().message()));
  return std::string(NameTensors(*checked, 2, absl::InvalidArgumentError(message)).message());
}

InferRequest IdsRequest() {
  InferRequest request;
  request.model_name = "fastertransformer";
  for (const char* name : {"input_ids", "input_lengths", "request_output_len"}) {
    request.inputs.push_back(Column<uint32_t>(name, "UINT32", {1}));
  }
  return request;
}

InferRequest NewerRequest() {
  InferRequest request;
  request.model_name = "ensemble";
  request.inputs = {Strings("text_input", {"hello"}), Column<float>("length_penalty", "FP32", {1})};
  return request;
}

TEST(NameTensors, NamesWhatTheErrorBeginsWith) {
  const char* tokens = "prompt has 9 tokens, model 'm' takes 8; shorten it";
  EXPECT_EQ(Named(EnsembleRequest(), tokens),
            "INPUT_0 of row 2 has 9 tokens, model 'm' takes 8; shorten it");
  EXPECT_EQ(Named(IdsRequest(), tokens),
            "input_ids of row 2 has 9 tokens, model 'm' takes 8; shorten it");
  EXPECT_EQ(Named(NewerRequest(), tokens),
            "text_input of row 2 has 9 tokens, model 'm' takes 8; shorten it");
  EXPECT_EQ(Named(EnsembleRequest(), "stopping.max_tokens is 5; the prompt has 9 tokens"),
            "INPUT_1 of row 2 is 5; the prompt has 9 tokens");
  EXPECT_EQ(Named(NewerRequest(), "sampling.length_penalty is 11"),
            "length_penalty of row 2 is 11");
  EXPECT_EQ(Named(EnsembleRequest(), "sampling.length_penalty is 11"),
            "len_penalty of row 2 is 11");
}

TEST(NameTensors, NumbersWords) {
  EXPECT_EQ(Named(EnsembleRequest(), "sampling.bad_words[3] has 2000 tokens"),
            "INPUT_2 of row 2: word 3 has 2000 tokens");
  EXPECT_EQ(Named(IdsRequest(), "sampling.bad_token_ids[12] is empty"),
            "bad_words_list of row 2: word 12 is empty");
  EXPECT_EQ(Named(IdsRequest(), "stopping.stop_token_sequences[0] has 300 entries"),
            "stop_words_list of row 2: word 0 has 300 entries");
  EXPECT_EQ(Named(NewerRequest(), "sampling.bad_words and bad_token_ids: 5000 tokens in all"),
            "bad_words of row 2: 5000 tokens in all");
}

TEST(NameTensors, NamesTheOtherFieldsToo) {
  EXPECT_EQ(Named(EnsembleRequest(),
                  "sampling.beam_width * stopping.max_tokens * (1 + output.logprobs) is 70000"),
            "beam_width of row 2 * INPUT_1 is 70000");
  EXPECT_EQ(Named(IdsRequest(), "stopping.min_tokens is 9; it must be at most max_tokens"),
            "min_length of row 2 is 9; it must be at most max_tokens");
}

TEST(NameTensors, LeavesOtherErrorsAsTheyAre) {
  EXPECT_EQ(Named(EnsembleRequest(), "adapter 'x' is not served"), "adapter 'x' is not served");
  const absl::StatusOr<CheckedRequest> checked = Check(EnsembleRequest());
  ASSERT_TRUE(checked.ok());
  const absl::Status lost = absl::UnavailableError("prompt delivery is not up to us");
  EXPECT_EQ(NameTensors(*checked, 0, lost), lost);
}

}  // namespace
}  // namespace caravan
