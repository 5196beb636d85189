#include "gateway/triton/protocol/generation_parameters.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/gateway/triton/protocol/request_maker.h"

namespace caravan {
namespace {

ServedModel Model() {
  ServedModel model;
  model.name = "tiny";
  model.vocabulary_size = 300;
  model.max_context_tokens = 512;
  return model;
}

absl::StatusOr<GenerationParameters> Read(InferRequest request, GenerationDefaults defaults = {}) {
  ASSIGN_OR_RETURN(const CheckedRequest checked, Check(std::move(request)));
  return ReadGenerationParameters(checked, Model(), defaults);
}

RowParameters RowWith(std::vector<InferInput> inputs, GenerationDefaults defaults = {}) {
  InferRequest request = EnsembleRequest(1);
  request.inputs.insert(request.inputs.end(), inputs.begin(), inputs.end());
  const auto parameters = Read(std::move(request), defaults);
  CARAVAN_CHECK(parameters.ok(), std::string(parameters.status().message()));
  return parameters->rows[0];
}

std::string ErrorWith(InferInput input) {
  InferRequest request = EnsembleRequest(1);
  request.inputs.push_back(std::move(input));
  const auto parameters = Read(std::move(request));
  return parameters.ok() ? "" : std::string(parameters.status().message());
}

InferInput K(uint32_t k) { return Column<uint32_t>("runtime_top_k", "UINT32", {k}); }
InferInput P(float p) { return Column<float>("runtime_top_p", "FP32", {p}); }

TEST(GenerationParameters, DefaultsAreGreedyWithSeed0) {
  const RowParameters row = RowWith({});
  EXPECT_EQ(row.sampling.temperature, 0);
  EXPECT_EQ(row.sampling.top_k, 1u);
  EXPECT_EQ(row.sampling.top_p, 1);
  EXPECT_EQ(row.sampling.seed, 0u);
  EXPECT_EQ(row.sampling.repetition_penalty, 1);
  EXPECT_EQ(row.stopping.max_tokens, 8u);
  EXPECT_FALSE(row.stopping.ignore_eos);
  EXPECT_TRUE(row.stopping.stop_token_ids.empty());
}

TEST(GenerationParameters, ChoosesBetweenTopKAndTopP) {
  EXPECT_EQ(RowWith({K(5)}).sampling.top_k, 5u);
  EXPECT_EQ(RowWith({K(5)}).sampling.top_p, 1) << "p absent or 0 beside k counts as 1";
  EXPECT_EQ(RowWith({K(5), P(0)}).sampling.top_p, 1);
  EXPECT_EQ(RowWith({K(5), P(0.5F)}).sampling.top_p, 0.5F);
  EXPECT_EQ(RowWith({K(0), P(0.5F)}).sampling.top_k, 0u);
  EXPECT_EQ(RowWith({P(0.5F)}).sampling.top_k, 0u);
  EXPECT_EQ(RowWith({P(7)}).sampling.top_p, 1) << "clipped";
  EXPECT_EQ(RowWith({P(-7)}).sampling.top_k, 1u) << "clipped to 0: greedy";
  EXPECT_EQ(RowWith({K(4000)}).sampling.top_k, 300u) << "clipped to 1024 and the vocabulary";
  EXPECT_EQ(RowWith({K(0), P(0)}).sampling.top_k, 1u);
}

TEST(GenerationParameters, RenormalizesLogProbsOfTopKRows) {
  EXPECT_EQ(RowWith({}).top_k_of_log_probs, 1u);
  EXPECT_EQ(RowWith({K(5)}).top_k_of_log_probs, 5u);
  EXPECT_EQ(RowWith({K(0), P(0.5F)}).top_k_of_log_probs, 0u);
  EXPECT_EQ(RowWith({K(100)}).top_k_of_log_probs, 0u) << "not known of so many";
}

TEST(GenerationParameters, DecaysTheNucleusAsFasterTransformerDoes) {
  const auto decay = [](float value) { return Column<float>("top_p_decay", "FP32", {value}); };
  const auto least = [](float value) { return Column<float>("top_p_min", "FP32", {value}); };
  EXPECT_EQ(RowWith({P(0.9F), decay(0.5F)}).sampling.top_p_decay, 0.5F);
  EXPECT_EQ(RowWith({P(0.9F), decay(2)}).sampling.top_p_decay, 1);
  EXPECT_EQ(RowWith({P(0.9F), least(2)}).sampling.top_p_min, 0.5F);
  EXPECT_EQ(RowWith({P(0.9F), least(0.2F)}).sampling.top_p_min, 0.2F);
  EXPECT_EQ(RowWith({K(4), P(0.9F), decay(0.5F)}).sampling.top_p_decay, 1) << "top-p rows only";
  const auto reset = Column<uint32_t>("top_p_reset_ids", "UINT32", {7});
  EXPECT_EQ(RowWith({P(0.9F), reset}).sampling.top_p_reset_id, 7);
}

TEST(GenerationParameters, HonoursAnEndIdAndFallsBackToTheTokenizers) {
  const auto end_id = [](uint32_t id) { return Column<uint32_t>("end_id", "UINT32", {id}); };
  const RowParameters row = RowWith({end_id(1)});
  EXPECT_EQ(row.stopping.stop_token_ids, std::vector<int32_t>{1});
  EXPECT_TRUE(row.stopping.ignore_eos);
  EXPECT_EQ(row.end_id, 1u);
  const RowParameters outside = RowWith({end_id(50256)});
  EXPECT_TRUE(outside.stopping.stop_token_ids.empty());
  EXPECT_TRUE(outside.stopping.ignore_eos);
  EXPECT_EQ(outside.end_id, 50256u) << "it still fills tails";
  GenerationDefaults defaults;
  defaults.stop_on_tokenizer_eos = true;
  EXPECT_FALSE(RowWith({end_id(1)}, defaults).stopping.ignore_eos);
}

TEST(GenerationParameters, NamesTensorRowAndLimit) {
  EXPECT_NE(ErrorWith(Column<float>("temperature", "FP32", {-1}))
                .find("temperature of row 0 is -1; it must be in [0, 100]"),
            std::string::npos);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const char* tensor : {"temperature", "repetition_penalty", "len_penalty",
                             "beam_search_diversity_rate", "presence_penalty", "runtime_top_p"}) {
    EXPECT_NE(ErrorWith(Column<float>(tensor, "FP32", {nan})).find(tensor), std::string::npos);
  }
  EXPECT_NE(ErrorWith(Column<uint32_t>("beam_width", "UINT32", {4000000000})).find("beam_width"),
            std::string::npos);
  InferRequest request = EnsembleRequest(2);
  request.inputs[1] = Column<uint32_t>("INPUT_1", "UINT32", {8, 513});
  EXPECT_EQ(Read(request).status().message(),
            "[request id: <id_unknown>] INPUT_1 of row 1 is 513; it must be in [1, 512]: the "
            "model's context holds 512 tokens, prompt included");
  request.inputs[1] = Column<uint32_t>("INPUT_1", "UINT32", {0, 8});
  EXPECT_FALSE(Read(request).ok());
}

TEST(GenerationParameters, RefusesPromptLearningAsFasterTransformerDoes) {
  InferRequest request = EnsembleRequest(1);
  request.inputs.push_back(Column<uint32_t>("prompt_learning_task_name_ids", "UINT32", {0}));
  const auto parameters = Read(std::move(request));
  EXPECT_EQ(parameters.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(parameters.status().message().find("FasterTransformer execute failure: "
                                               "prompt_learning_type is prefix_prompt"),
            std::string::npos);
}

TEST(GenerationParameters, ReadsWordsOfEachRow) {
  InferRequest request = EnsembleRequest(2);
  request.inputs[2] = Strings("INPUT_2", {"", "x, y"});
  request.inputs[3] = Strings("INPUT_3", {"END", ""});
  const auto parameters = Read(std::move(request));
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  EXPECT_TRUE(parameters->rows[0].sampling.bad_words.empty());
  EXPECT_EQ(parameters->rows[1].sampling.bad_words, (std::vector<std::string>{"x", " y"}));
  EXPECT_EQ(parameters->rows[0].stopping.stop_strings, std::vector<std::string>{"END"});
}

TEST(GenerationParameters, StreamsAsTheRequestSays) {
  InferRequest request = EnsembleRequest(1);
  EXPECT_FALSE(Read(request)->partial);
  request.streaming = true;
  EXPECT_TRUE(Read(request)->partial);
  EXPECT_EQ(Read(request)->stream_interval, 5);
  EXPECT_FALSE(Read(request)->delta);
  GenerationDefaults defaults;
  defaults.decoupled = false;
  EXPECT_FALSE(Read(request, defaults)->partial);
  request.parameters[kStreamDelta] = true;
  EXPECT_TRUE(Read(request)->delta);
  EXPECT_EQ(Read(request)->stream_interval, 1);
  request.parameters[kStreamInterval] = int64_t{3};
  EXPECT_EQ(Read(request)->stream_interval, 3);
  request.parameters[kStreamInterval] = int64_t{0};
  EXPECT_FALSE(Read(request).ok());
  request.parameters = {{kExcludeInput, std::string("yes")}};
  EXPECT_FALSE(Read(request).ok());
}

}  // namespace
}  // namespace caravan
