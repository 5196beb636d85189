#include "gateway/generation/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

namespace caravan {
namespace {

using testing::HasSubstr;

ServedModels OneModel() {
  auto model = std::make_shared<ServedModel>();
  model->name = "tiny";
  model->vocabulary_size = 100;
  model->max_context_tokens = 50;
  model->max_prompt_tokens = 40;
  model->block_tokens = 16;
  return {{"tiny", model}};
}

RequestSpec GoodSpec() {
  RequestSpec spec;
  PromptPart part;
  part.kind = PromptPart::Kind::kText;
  part.text = "hello";
  spec.prompt.push_back(part);
  return spec;
}

absl::Status Validate(const std::function<void(RequestSpec*)>& change,
                      const ServedModels& models = OneModel()) {
  RequestSpec spec = GoodSpec();
  change(&spec);
  return ValidatedRequest::Make(spec, models).status();
}

struct Case {
  std::string name;
  std::function<void(RequestSpec*)> change;
  std::string message;  // a part of it
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

class RefusedRequest : public testing::TestWithParam<Case> {};

TEST_P(RefusedRequest, NamesTheFieldAndTheLimit) {
  const absl::Status status = Validate(GetParam().change);
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

PromptPart Part(PromptPart::Kind kind, const std::string& text = "",
                std::vector<int32_t> ids = {}) {
  PromptPart part;
  part.kind = kind;
  part.text = text;
  part.token_ids = std::move(ids);
  return part;
}
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
using Kind = PromptPart::Kind;
using Spec = RequestSpec;

INSTANTIATE_TEST_SUITE_P(
    Sampling, RefusedRequest,
    testing::Values(Case{"temperature", [](Spec* s) { s->sampling.temperature = 100.5; },
                         "sampling.temperature is 100.5; it must be in [0, 100]"},
                    Case{"temperature_nan", [](Spec* s) { s->sampling.temperature = kNan; },
                         "sampling.temperature is nan"},
                    Case{"temperature_negative", [](Spec* s) { s->sampling.temperature = -0.1f; },
                         "sampling.temperature is -0.1"},
                    Case{"top_k", [](Spec* s) { s->sampling.top_k = 101; },
                         "sampling.top_k is 101; it must be in [0, 100]"},
                    Case{"top_p", [](Spec* s) { s->sampling.top_p = 1.5; },
                         "sampling.top_p is 1.5; it must be in (0, 1]"},
                    Case{"top_p_zero", [](Spec* s) { s->sampling.top_p = 0; },
                         "sampling.top_p is 0"},
                    Case{"min_p", [](Spec* s) { s->sampling.min_p = 2; },
                         "sampling.min_p is 2; it must be in [0, 1]"},
                    Case{"repetition_penalty", [](Spec* s) { s->sampling.repetition_penalty = 0; },
                         "sampling.repetition_penalty is 0; it must be in (0, 100]"},
                    Case{"presence_penalty", [](Spec* s) { s->sampling.presence_penalty = -101; },
                         "sampling.presence_penalty is -101; it must be in [-100, 100]"},
                    Case{"frequency_penalty", [](Spec* s) { s->sampling.frequency_penalty = kNan; },
                         "sampling.frequency_penalty is nan"},
                    Case{"logit_bias_id", [](Spec* s) { s->sampling.logit_bias[100] = 1; },
                         "sampling.logit_bias names token id 100"},
                    Case{"logit_bias_value", [](Spec* s) { s->sampling.logit_bias[3] = 1000; },
                         "sampling.logit_bias[3] is 1000"},
                    Case{"logit_bias_count",
                         [](Spec* s) {
                           for (int i = 0; i < 1025; ++i) s->sampling.logit_bias[i] = 0;
                         },
                         "sampling.logit_bias has 1025 entries; at most 1024"},
                    Case{"bad_words_count", [](Spec* s) { s->sampling.bad_words.assign(257, "x"); },
                         "sampling.bad_words and bad_token_ids: 257 entries in all; at most 256"},
                    Case{"bad_word_empty",
                         [](Spec* s) {
                           s->sampling.bad_words = {"x", ""};
                         },
                         "sampling.bad_words[1] is empty"},
                    Case{"bad_word_utf8", [](Spec* s) { s->sampling.bad_words = {"ab\xff"}; },
                         "sampling.bad_words[0] is not UTF-8: byte 2 (0xff)"},
                    Case{"bad_ids_empty", [](Spec* s) { s->sampling.bad_token_ids = {{}}; },
                         "sampling.bad_token_ids[0] is empty"},
                    Case{"bad_ids_range",
                         [](Spec* s) {
                           s->sampling.bad_token_ids = {{1, -1}};
                         },
                         "sampling.bad_token_ids[0].ids[1] is -1"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Beams, RefusedRequest,
    testing::Values(
        Case{"width", [](Spec* s) { s->sampling.beam_width = 17; },
             "sampling.beam_width is 17; it must be in [0, 16]"},
        Case{"length_penalty", [](Spec* s) { s->sampling.length_penalty = kNan; },
             "sampling.length_penalty is nan; it must be in [-10, 10]"},
        Case{"diversity", [](Spec* s) { s->sampling.beam_diversity_rate = 101; },
             "sampling.beam_diversity_rate is 101; it must be in [-100, 100]"},
        Case{"samples",
             [](Spec* s) {
               s->sampling.beam_width = 2;
               s->num_samples = 3;
             },
             "num_samples is 3 and sampling.beam_width 2; they exclude each other"},
        Case{"resumed",
             [](Spec* s) {
               s->sampling.beam_width = 2;
               s->sampling.seed = 1;
               s->resume_token_ids = {1};
             },
             "a search can't be resumed"},
        Case{"top_p_decay", [](Spec* s) { s->sampling.top_p_decay = 0; },
             "sampling.top_p_decay is 0; it must be in (0, 1]"},
        Case{"top_p_min", [](Spec* s) { s->sampling.top_p_min = 1.5; },
             "sampling.top_p_min is 1.5; it must be in (0, 1]"},
        Case{"top_p_reset_id", [](Spec* s) { s->sampling.top_p_reset_id = 100; },
             "sampling.top_p_reset_id is 100; token ids of model 'tiny' are in [0, 100)"},
        Case{"stop_sequence_empty", [](Spec* s) { s->stopping.stop_token_sequences = {{}}; },
             "stopping.stop_token_sequences[0] is empty"},
        Case{"stop_sequence_range",
             [](Spec* s) {
               s->stopping.stop_token_sequences = {{1}, {2, 100}};
             },
             "stopping.stop_token_sequences[1].ids[1] is 100"},
        Case{"stop_sequence_count",
             [](Spec* s) { s->stopping.stop_token_sequences.assign(65, {1}); },
             "stopping.stop_token_sequences has 65 entries; at most 64"}),
    [](const auto& info) { return info.param.name; });

TEST(ValidatedRequest, ABurstOfBeamsIsKnownAndBounded) {
  auto model = std::make_shared<ServedModel>(*OneModel().at("tiny"));
  model->max_context_tokens = 1 << 20;
  const ServedModels models = {{"tiny", model}};
  RequestSpec spec = GoodSpec();
  spec.sampling.beam_width = 16;
  spec.stopping.max_tokens = 4096;
  const absl::StatusOr<ValidatedRequest> request = ValidatedRequest::Make(spec, models);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->num_sequences(), 16U);
  EXPECT_EQ(request->burst_tokens(), 65536);
  spec.output.logprobs = 1;
  EXPECT_THAT(std::string(ValidatedRequest::Make(spec, models).status().message()),
              HasSubstr("is 131072; it must be at most 65536"));
}

INSTANTIATE_TEST_SUITE_P(
    Prompt, RefusedRequest,
    testing::Values(
        Case{"no_part", [](Spec* s) { s->prompt.clear(); }, "prompt is empty"},
        Case{"empty_parts",
             [](Spec* s) {
               s->prompt = {Part(Kind::kText), Part(Kind::kTokenIds)};
             },
             "prompt is empty"},
        Case{"unset_part", [](Spec* s) { s->prompt.push_back(Part(Kind::kUnset)); },
             "prompt[1] has no content"},
        Case{"utf8", [](Spec* s) { s->prompt[0].text = "good \xc3( bad"; },
             "prompt[0].text is not UTF-8: byte 5 (0xc3)"},
        Case{"token_id",
             [](Spec* s) {
               s->prompt.push_back(Part(Kind::kTokenIds, "", {5, 100}));
             },
             "prompt[1].token_ids[1] is 100; token ids of model 'tiny' are in [0, 100)"},
        Case{"embeddings", [](Spec* s) { s->prompt.push_back(Part(Kind::kEmbeddings)); },
             "prompt[1].embeddings", kUnimplemented},
        Case{"media", [](Spec* s) { s->prompt.push_back(Part(Kind::kMedia)); }, "prompt[1].media",
             kUnimplemented}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Stopping, RefusedRequest,
    testing::Values(Case{"max_tokens", [](Spec* s) { s->stopping.max_tokens = 51; },
                         "stopping.max_tokens is 51; the context of model 'tiny' holds 50 tokens"},
                    Case{"min_tokens",
                         [](Spec* s) {
                           s->stopping.max_tokens = 5;
                           s->stopping.min_tokens = 6;
                         },
                         "stopping.min_tokens is 6; it must be at most max_tokens, which is 5"},
                    Case{"stop_tokens_count",
                         [](Spec* s) { s->stopping.stop_token_ids.assign(65, 1); },
                         "stopping.stop_token_ids has 65 entries; at most 64"},
                    Case{"stop_token_range", [](Spec* s) { s->stopping.stop_token_ids = {100}; },
                         "stopping.stop_token_ids[0] is 100"},
                    Case{"stop_strings_count",
                         [](Spec* s) { s->stopping.stop_strings.assign(17, "x"); },
                         "stopping.stop_strings has 17 entries; at most 16"},
                    Case{"stop_string_empty", [](Spec* s) { s->stopping.stop_strings = {""}; },
                         "stopping.stop_strings[0] is empty"},
                    Case{"stop_string_long",
                         [](Spec* s) { s->stopping.stop_strings = {std::string(257, 'x')}; },
                         "stopping.stop_strings[0] has 257 bytes; at most 256"},
                    Case{"stop_string_utf8", [](Spec* s) { s->stopping.stop_strings = {"\x80"}; },
                         "stopping.stop_strings[0] is not UTF-8: byte 0 (0x80)"},
                    Case{"resume_too_long",
                         [](Spec* s) {
                           s->stopping.max_tokens = 2;
                           s->sampling.seed = 1;
                           s->resume_token_ids = {1, 2};
                         },
                         "resume_token_ids has 2 ids"},
                    Case{"resume_range",
                         [](Spec* s) {
                           s->sampling.seed = 1;
                           s->resume_token_ids = {1, 200};
                         },
                         "resume_token_ids[1] is 200"},
                    Case{"resume_samples",
                         [](Spec* s) {
                           s->sampling.seed = 1;
                           s->resume_token_ids = {1};
                           s->num_samples = 2;
                         },
                         "only one sequence can be resumed"},
                    Case{"resume_seed", [](Spec* s) { s->resume_token_ids = {1}; },
                         "resume_token_ids needs sampling.seed"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Others, RefusedRequest,
    testing::Values(
        Case{"request_id_long", [](Spec* s) { s->request_id.assign(129, 'x'); },
             "request_id has 129 bytes; at most 128"},
        Case{"request_id_byte", [](Spec* s) { s->request_id = "a\nb"; },
             "request_id has byte 0x0a at 1"},
        Case{"tenant", [](Spec* s) { s->tenant.assign(129, 'x'); }, "tenant has 129 bytes"},
        Case{"model_long", [](Spec* s) { s->model.assign(129, 'x'); }, "model has 129 bytes"},
        Case{"adapter_long", [](Spec* s) { s->adapter.assign(129, 'x'); }, "adapter has 129 bytes"},
        Case{"processor_long", [](Spec* s) { s->logits_processors = {std::string(129, 'x')}; },
             "logits_processors.name has 129 bytes"},
        Case{"priority", [](Spec* s) { s->priority = 101; },
             "priority is 101; it must be in [-100, 100]"},
        Case{"num_samples", [](Spec* s) { s->num_samples = 17; },
             "num_samples is 17; it must be in [1, 16]"},
        Case{"logprobs", [](Spec* s) { s->output.logprobs = 21; },
             "output.logprobs is 21; it must be in [0, 20]"},
        Case{"no_text_stop_strings",
             [](Spec* s) {
               s->output.no_text = true;
               s->stopping.stop_strings = {"x"};
             },
             "output.no_text and stopping.stop_strings"},
        Case{"no_text_echo",
             [](Spec* s) {
               s->output.no_text = true;
               s->output.echo_prompt = true;
             },
             "output.no_text and output.echo_prompt"},
        Case{"model", [](Spec* s) { s->model = "huge"; },
             "model 'huge' is not served; served: tiny", kNotFound},
        Case{"adapter", [](Spec* s) { s->adapter = "poet"; }, "adapter 'poet'", kNotFound},
        Case{"response_format", [](Spec* s) { s->has_response_format = true; }, "response_format",
             kUnimplemented},
        Case{"logits_processors", [](Spec* s) { s->logits_processors = {"upper"}; },
             "logits_processors[0] is 'upper'", kUnimplemented}),
    [](const auto& info) { return info.param.name; });

TEST(ValidatedRequest, AcceptsEveryLimitItself) {
  EXPECT_TRUE(Validate([](RequestSpec* spec) {
                spec->request_id.assign(128, '~');
                spec->priority = -100;
                spec->num_samples = 16;
                spec->sampling.temperature = 0;
                spec->sampling.top_k = 100;
                spec->sampling.min_p = 1;
                spec->sampling.repetition_penalty = 100;
                spec->sampling.presence_penalty = -100;
                spec->sampling.logit_bias[99] = 100;
                spec->stopping.max_tokens = 50;
                spec->stopping.min_tokens = 50;
                spec->stopping.stop_strings.assign(16, std::string(256, 'x'));
                spec->output.logprobs = 20;
              }).ok());
}

TEST(ValidatedRequest, DrawsASeedAndAnIdWhereTheClientGaveNone) {
  const auto first = ValidatedRequest::Make(GoodSpec(), OneModel());
  const auto second = ValidatedRequest::Make(GoodSpec(), OneModel());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->seed(), second->seed());
  EXPECT_NE(first->spec().request_id, second->spec().request_id);
  RequestSpec spec = GoodSpec();
  spec.sampling.seed = 7;
  spec.request_id = "mine";
  const auto given = ValidatedRequest::Make(spec, OneModel());
  EXPECT_EQ(given->seed(), 7u);
  EXPECT_EQ(given->spec().request_id, "mine");
}

TEST(ValidatedRequest, NeedsAModelNameOnlyWhereThereAreSeveral) {
  ServedModels models = OneModel();
  EXPECT_TRUE(Validate([](RequestSpec* spec) {}, models).ok());
  models["other"] = models["tiny"];
  const absl::Status status = Validate([](RequestSpec* spec) {}, models);
  EXPECT_THAT(std::string(status.message()), HasSubstr("name one of: other, tiny"));
}

TEST(ValidatedRequest, IsUnavailableBeforeAReplicaWasReached) {
  EXPECT_TRUE(absl::IsUnavailable(Validate([](RequestSpec* spec) {}, {})));
}

std::string FitError(uint32_t max_tokens, size_t prompt_tokens) {
  RequestSpec spec = GoodSpec();
  spec.stopping.max_tokens = max_tokens;
  const auto fits = ValidatedRequest::Make(spec, OneModel())->MaxTokensAfter(prompt_tokens);
  return fits.ok() ? std::to_string(*fits) : std::string(fits.status().message());
}

TEST(ValidatedRequest, FitsPromptAndOutputIntoTheContext) {
  EXPECT_EQ(FitError(10, 40), "10");
  EXPECT_EQ(FitError(0, 10), "16");
  EXPECT_EQ(FitError(0, 40), "10");  // the default gives way
  EXPECT_THAT(FitError(11, 40), HasSubstr("at most 10 can follow"));
  EXPECT_THAT(FitError(1, 41), HasSubstr("prompt has 41 tokens, model 'tiny' takes 40"));
  EXPECT_THAT(FitError(1, 0), HasSubstr("prompt has no tokens"));
}

}  // namespace
}  // namespace caravan
