#include "worker/request_validation.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "tests/worker/worker_client.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

const SubmitLimits kLimits = {.model = "model",
                              .fingerprint = "f00d",
                              .vocab_size = 100,
                              .max_context_tokens = 64,
                              .max_prompt_tokens = 63};

absl::Status Validate(const v1::WorkerSubmit& submit) {
  return ValidateSubmit(submit, kLimits, absl::UnixEpoch()).status();
}

TEST(RequestValidation, TakesOverEveryFieldOfAValidRequest) {
  v1::WorkerSubmit submit = MakeSubmit(9, 10, 20);
  submit.set_num_resumed(4);
  submit.set_priority(-3);
  submit.set_timeout_ms(1500);
  submit.set_cache_salt(77);
  submit.set_expected_fingerprint("f00d");
  submit.mutable_sampling()->set_seed(5);
  const absl::StatusOr<Request> request = ValidateSubmit(submit, kLimits, absl::UnixEpoch());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->request_id, "request-9");
  EXPECT_EQ(request->prompt.size(), 10U);
  EXPECT_EQ(request->num_resumed, 4);
  EXPECT_EQ(request->priority, -3);
  EXPECT_EQ(request->deadline, absl::UnixEpoch() + absl::Milliseconds(1500));
  EXPECT_EQ(request->cache_salt, 77U);
  EXPECT_EQ(request->sampling.seed, 5U);
  EXPECT_EQ(request->sampling.max_tokens, 20);
}

TEST(RequestValidation, EachFieldOutsideItsRangeIsNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto expect_refused = [](absl::StatusCode code, const char* words, auto change) {
    v1::WorkerSubmit submit = MakeSubmit(1, 10, 20);
    ASSERT_TRUE(Validate(submit).ok());
    change(submit, *submit.mutable_sampling());
    const absl::Status status = Validate(submit);
    EXPECT_EQ(status.code(), code) << words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  };
  using Submit = v1::WorkerSubmit;
  using Sampling = v1::WorkerSampling;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const auto invalid = [&](const char* words, auto change) {
    expect_refused(kInvalid, words, change);
  };
  expect_refused(absl::StatusCode::kNotFound, "model 'x'",
                 [](Submit& s, Sampling&) { s.set_model("x"); });
  expect_refused(absl::StatusCode::kNotFound, "adapter 'x'",
                 [](Submit& s, Sampling&) { s.set_adapter("x"); });
  expect_refused(absl::StatusCode::kFailedPrecondition, "fingerprint",
                 [](Submit& s, Sampling&) { s.set_expected_fingerprint("beef"); });
  expect_refused(kUnimplemented, "response_format",
                 [](Submit& s, Sampling&) { s.set_response_format("x"); });
  expect_refused(kUnimplemented, "logits_processors",
                 [](Submit& s, Sampling&) { s.add_logits_processors("x"); });
  invalid("beam_width is 17", [](Submit& s, Sampling&) { s.set_beam_width(17); });
  const auto invalid_search = [&](const char* words, auto change) {
    invalid(words, [&](Submit& s, Sampling& sampling) {
      s.set_beam_width(2);
      change(s, sampling);
    });
  };
  invalid_search("length_penalty", [](Submit& s, Sampling&) { s.set_length_penalty(11); });
  invalid_search("length_penalty", [](Submit& s, Sampling&) { s.set_length_penalty(kNan); });
  invalid_search("beam_diversity_rate",
                 [](Submit& s, Sampling&) { s.set_beam_diversity_rate(-101); });
  invalid_search("num_samples", [](Submit& s, Sampling&) { s.set_num_samples(2); });
  invalid_search("can't be resumed", [](Submit& s, Sampling&) { s.set_num_resumed(1); });
  invalid("top_p_decay", [](Submit&, Sampling& s) { s.set_top_p_decay(1.5); });
  invalid("top_p_min", [](Submit&, Sampling& s) { s.set_top_p_min(-0.5); });
  invalid("top_p_reset_id", [](Submit&, Sampling& s) { s.set_top_p_reset_id(100); });
  invalid("stop sequence", [](Submit&, Sampling& s) { s.add_stop_sequences(); });
  invalid("stop_sequences", [](Submit&, Sampling& s) { s.add_stop_sequences()->add_ids(100); });
  expect_refused(kUnimplemented, "resume_state",
                 [](Submit& s, Sampling&) { s.set_resume_state("x"); });
  invalid("prompt is empty", [](Submit& s, Sampling&) { s.clear_prompt_token_ids(); });
  invalid("64 tokens", [](Submit& s, Sampling&) {
    while (s.prompt_token_ids_size() < 64) s.add_prompt_token_ids(1);
  });
  invalid("token id -1", [](Submit& s, Sampling&) { s.set_prompt_token_ids(0, -1); });
  invalid("token id 100", [](Submit& s, Sampling&) { s.set_prompt_token_ids(0, 100); });
  invalid("num_resumed", [](Submit& s, Sampling&) { s.set_num_resumed(10); });
  invalid("num_samples", [](Submit& s, Sampling&) { s.set_num_samples(0); });
  invalid("num_samples", [](Submit& s, Sampling&) { s.set_num_samples(17); });
  invalid("resumed request has one", [](Submit& s, Sampling&) {
    s.set_num_samples(2);
    s.set_num_resumed(1);
  });
  invalid("priority", [](Submit& s, Sampling&) { s.set_priority(101); });
  invalid("timeout_ms", [](Submit& s, Sampling&) { s.set_timeout_ms(-1); });
  invalid("sampling", [](Submit& s, Sampling&) { s.clear_sampling(); });
  for (const float temperature : {-0.1F, 100.1F, kNan, kInfinity}) {
    invalid("temperature", [&](Submit&, Sampling& s) { s.set_temperature(temperature); });
  }
  invalid("top_k", [](Submit&, Sampling& s) { s.set_top_k(101); });
  for (const float top_p : {0.0F, 1.1F, kNan}) {
    invalid("top_p", [&](Submit&, Sampling& s) { s.set_top_p(top_p); });
  }
  invalid("min_p", [](Submit&, Sampling& s) { s.set_min_p(1.5); });
  invalid("repetition_penalty", [](Submit&, Sampling& s) { s.set_repetition_penalty(0); });
  invalid("presence_penalty", [](Submit&, Sampling& s) { s.set_presence_penalty(kNan); });
  invalid("frequency_penalty", [](Submit&, Sampling& s) { s.set_frequency_penalty(-101); });
  invalid("logit_bias", [](Submit&, Sampling& s) { (*s.mutable_logit_bias())[100] = 1; });
  invalid("logit_bias", [](Submit&, Sampling& s) { (*s.mutable_logit_bias())[1] = kNan; });
  invalid("bad word", [](Submit&, Sampling& s) { s.add_bad_words(); });
  invalid("bad_words", [](Submit&, Sampling& s) { s.add_bad_words()->add_ids(-1); });
  invalid("all bad_words is 4097", [](Submit&, Sampling& s) {
    for (int size : {1024, 1024, 1024, 1024, 1}) {
      auto* word = s.add_bad_words();
      for (int i = 0; i < size; ++i) word->add_ids(1);
    }
  });
  invalid("stop_token_ids", [](Submit&, Sampling& s) { s.add_stop_token_ids(100); });
  invalid("max_tokens", [](Submit&, Sampling& s) { s.set_max_tokens(0); });
  invalid("max_tokens", [](Submit&, Sampling& s) { s.set_max_tokens(0x80000000U); });
  invalid("min_tokens", [](Submit&, Sampling& s) { s.set_min_tokens(21); });
  invalid("num_logprobs", [](Submit&, Sampling& s) { s.set_num_logprobs(21); });
  invalid("num_logprobs", [](Submit&, Sampling& s) { s.set_num_logprobs(-2); });
}

TEST(RequestValidation, ASearchKeepsItsParameters) {
  v1::WorkerSubmit submit = MakeSubmit(9, 10, 20);
  submit.set_beam_width(4);
  submit.set_length_penalty(1.5);
  submit.set_beam_diversity_rate(-0.5);
  submit.set_beam_snapshot_interval(5);
  submit.set_beam_snapshot_offset(7);
  const absl::StatusOr<Request> request = ValidateSubmit(submit, kLimits, absl::UnixEpoch());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->beams.width, 4);
  EXPECT_EQ(request->beams.length_penalty, 1.5F);
  EXPECT_EQ(request->beams.diversity_rate, -0.5F);
  EXPECT_EQ(request->beams.snapshot_interval, 5);
  EXPECT_EQ(request->beams.snapshot_offset, 7);
  EXPECT_EQ(request->num_sequences(), 4);
  submit.set_beam_snapshot_interval(0xFFFFFFFFU);
  const absl::Status status = ValidateSubmit(submit, kLimits, absl::UnixEpoch()).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("beam_snapshot_interval is 4294967295"));
}

TEST(RequestValidation, ABurstOfBeamsIsBounded) {
  SubmitLimits limits = kLimits;
  limits.max_context_tokens = 1 << 20;
  v1::WorkerSubmit submit = MakeSubmit(9, 10, 4096);
  submit.set_beam_width(16);
  EXPECT_TRUE(ValidateSubmit(submit, limits, absl::UnixEpoch()).ok());
  submit.mutable_sampling()->set_num_logprobs(1);
  const absl::Status status = ValidateSubmit(submit, limits, absl::UnixEpoch()).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("131072; it must be from 0 to 65536"));
}

TEST(RequestValidation, NoBytesThatParseMakeARequestOutsideTheLimits) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const google::protobuf::LogSilencer silencer;  // of what it says about invalid UTF-8
  const std::string valid = MakeSubmit(1, 10, 20).SerializeAsString();
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = valid;
    for (uint64_t n = random() % 4; n > 0; --n) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    v1::WorkerSubmit submit;
    if (!submit.ParseFromString(bytes)) continue;
    const absl::StatusOr<Request> request = ValidateSubmit(submit, kLimits, absl::Now());
    if (!request.ok()) continue;
    ++accepted;
    ASSERT_LE(request->prompt.size(), 63U);
    for (const int32_t id : request->prompt) ASSERT_TRUE(id >= 0 && id < 100);
    ASSERT_LT(request->num_resumed, static_cast<int32_t>(request->prompt.size()));
    ASSERT_TRUE(request->sampling.temperature >= 0 && request->sampling.temperature <= 100);
    ASSERT_TRUE(request->sampling.top_p > 0 && request->sampling.top_p <= 1);
    ASSERT_GE(request->sampling.max_tokens, 1);
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace caravan
