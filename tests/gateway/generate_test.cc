// Generation.Generate end to end: a real gateway between fake worker and fake tokenizer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_cluster.h"

namespace caravan {
namespace {

using Finish = v1::WorkerTokenEvent;

TEST(Generate, StreamsTheTextOfTheWorkersTokens) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"), "my-request");
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.request_id(), "my-request");
  EXPECT_EQ(cluster.tokenizer().last_request_id(), "my-request");
  EXPECT_THAT(
      std::vector<int32_t>(submit.prompt_token_ids().begin(), submit.prompt_token_ids().end()),
      testing::ElementsAre(1, 3 + 'h', 3 + 'i'));
  cluster.worker().Emit(submit.key(), {WordId(0)});
  ASSERT_TRUE(call->Read());  // started
  ASSERT_TRUE(call->Read());
  EXPECT_EQ(call->seen().text, " the");
  cluster.worker().Emit(submit.key(), {WordId(1)});
  cluster.worker().Emit(submit.key(), {2}, Finish::STOP_TOKEN);
  const Seen& seen = call->ReadAll();
  EXPECT_TRUE(seen.status.ok()) << seen.status.error_message();
  EXPECT_EQ(seen.started.request_id(), "my-request");
  EXPECT_EQ(seen.started.model(), "tiny");
  EXPECT_EQ(seen.started.prompt_tokens(), 3u);
  EXPECT_EQ(seen.started.seed(), submit.sampling().seed());
  EXPECT_EQ(seen.text, " the cat");
  EXPECT_THAT(seen.ids, testing::ElementsAre(WordId(0), WordId(1), 2));
  EXPECT_EQ(seen.finished.reason(), v1::Finished::STOP_TOKEN);
  EXPECT_EQ(seen.finished.stop_token_id(), 2);
  EXPECT_EQ(seen.finished.generated_tokens(), 3u);
}

std::vector<int32_t> Ids(const google::protobuf::RepeatedField<int32_t>& ids) {
  return {ids.begin(), ids.end()};
}

TEST(Generate, FindsAStopStringAcrossTokensAndCancelsTheWorker) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_stopping()->add_stop_strings("sat END!");
  request.mutable_stopping()->add_stop_strings("cat sat END!");
  auto call = cluster.Generate(request);
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  // " the cat sat END!": " END" is one token, "!" the next.
  cluster.worker().Emit(key, {WordId(0)});
  cluster.worker().Emit(key, {WordId(1)});
  cluster.worker().Emit(key, {WordId(2)});
  cluster.worker().Emit(key, {WordId(3)});
  cluster.worker().Emit(key, {3 + '!'});
  EXPECT_EQ(cluster.worker().AwaitCancel(), key);
  cluster.worker().Emit(key, {WordId(0)});  // one step late: dropped
  const Seen& seen = call->ReadAll();
  EXPECT_TRUE(seen.status.ok());
  EXPECT_EQ(seen.text, " the ");
  EXPECT_EQ(seen.ids.size(), 5u);
  EXPECT_EQ(seen.finished.reason(), v1::Finished::STOP_STRING);
  EXPECT_EQ(seen.finished.stop_string(), "cat sat END!");
  EXPECT_EQ(seen.finished.generated_tokens(), 5u);
}

TEST(Generate, DeliversHeldBackTextWhenNoStopStringCame) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_stopping()->add_stop_strings(" END!");
  auto call = cluster.Generate(request);
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(1), WordId(3)}, Finish::LENGTH);
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.text, " cat END");
  EXPECT_EQ(seen.finished.reason(), v1::Finished::LENGTH);
}

TEST(Generate, IncludesTheStopOnRequest) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_stopping()->add_stop_strings("t s");
  request.mutable_stopping()->set_include_stop(true);
  auto call = cluster.Generate(request);
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(1), WordId(2)});
  EXPECT_EQ(call->ReadAll().text, " cat s");
}

TEST(Generate, IgnoresStopStringsBeforeMinTokens) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_stopping()->add_stop_strings("cat");
  request.mutable_stopping()->set_min_tokens(2);
  auto call = cluster.Generate(request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.sampling().min_tokens(), 2u);
  cluster.worker().Emit(submit.key(), {WordId(1), WordId(1), WordId(0), WordId(1)});
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.text, " cat cat the ");
  EXPECT_EQ(seen.finished.reason(), v1::Finished::STOP_STRING);
}

TEST(Generate, HidesAStopTokensTextUnlessAskedFor) {
  Cluster cluster;
  for (const bool include : {false, true}) {
    v1::GenerateRequest request = TextRequest("hi");
    request.mutable_stopping()->add_stop_token_ids(WordId(1));
    request.mutable_stopping()->set_include_stop(include);
    auto call = cluster.Generate(request);
    const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
    EXPECT_THAT(Ids(submit.sampling().stop_token_ids()), testing::ElementsAre(2, WordId(1)));
    cluster.worker().Emit(submit.key(), {WordId(0)});
    cluster.worker().Emit(submit.key(), {WordId(1)}, Finish::STOP_TOKEN);
    const Seen& seen = call->ReadAll();
    EXPECT_EQ(seen.text, include ? " the cat" : " the");
    EXPECT_THAT(seen.ids, testing::ElementsAre(WordId(0), WordId(1)));
    EXPECT_EQ(seen.finished.stop_token_id(), WordId(1));
  }
}

TEST(Generate, LeavesOutTheModelsStopTokensOnRequest) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_stopping()->set_ignore_eos(true);
  auto call = cluster.Generate(request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_TRUE(submit.sampling().stop_token_ids().empty());
  cluster.worker().Emit(submit.key(), {5}, Finish::LENGTH);
  EXPECT_TRUE(call->ReadAll().status.ok());
}

TEST(Generate, SendsNoPartOfACharacter) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  const std::string text = "\xf0\x9f\x98\x80\xc3\xa9";  // an emoji, é
  for (const int32_t id : ByteIds(text)) cluster.worker().Emit(key, {id});
  cluster.worker().Emit(key, {3 + 0xc3}, Finish::LENGTH);  // cut off in the middle
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.text, text + "\xef\xbf\xbd");
  for (const v1::TokenEvent& event : seen.events) {
    EXPECT_EQ(FindInvalidUtf8(event.text()), std::string::npos);
  }
  uint32_t position = 0;
  for (const v1::TokenEvent& event : seen.events) {
    if (event.num_tokens() > 0) {
      EXPECT_EQ(event.first_position(), position);
    }
    position += event.num_tokens();
  }
  EXPECT_EQ(position, 7u);
}

TEST(Generate, EchoesThePromptBeforeTheFirstText) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("once");
  request.mutable_output()->set_echo_prompt(true);
  auto call = cluster.Generate(request);
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, "once cat");
  request.add_prompt()->mutable_token_ids()->add_ids(WordId(0));
  call = cluster.Generate(request);
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, "once the cat");  // ids are decoded
}

TEST(Generate, EchoesACharacterThatTheOutputCompletesOnce) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("once ");
  request.mutable_output()->set_echo_prompt(true);
  const std::vector<int32_t> euro = ByteIds("\xe2\x82\xac");
  v1::TokenIds* ids = request.add_prompt()->mutable_token_ids();
  ids->add_ids(euro[0]);
  ids->add_ids(euro[1]);
  auto call = cluster.Generate(request);
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {euro[2]}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, "once \xe2\x82\xac");
}

TEST(Generate, JoinsPromptPartsAndEncodesBadWords) {
  Cluster cluster;
  v1::GenerateRequest request;
  request.add_prompt()->mutable_token_ids()->add_ids(77);
  request.add_prompt()->set_text("ab");
  request.mutable_sampling()->add_bad_words("x");
  request.mutable_sampling()->add_bad_token_ids()->add_ids(9);
  auto call = cluster.Generate(request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_THAT(Ids(submit.prompt_token_ids()), testing::ElementsAre(77, 3 + 'a', 3 + 'b'));
  ASSERT_EQ(submit.sampling().bad_words_size(), 2);  // both forms of "x" are equal here
  EXPECT_THAT(Ids(submit.sampling().bad_words(0).ids()), testing::ElementsAre(9));
  EXPECT_THAT(Ids(submit.sampling().bad_words(1).ids()), testing::ElementsAre(3 + 'x'));
  EXPECT_EQ(submit.sampling().max_tokens(), 16u);
  cluster.worker().Emit(submit.key(), {5}, Finish::LENGTH);
  EXPECT_TRUE(call->ReadAll().status.ok());
}

TEST(Generate, ReportsLogProbabilitiesWithTheTokensBytes) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_output()->set_logprobs(2);
  auto call = cluster.Generate(request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.sampling().num_logprobs(), 2);
  v1::WorkerTokenEvent event;
  event.set_key(submit.key());
  event.add_token_ids(WordId(1));
  event.add_logprobs(-0.5f);
  v1::WorkerTopLogprobs* top = event.add_top_logprobs();
  for (const int32_t id : {WordId(1), WordId(0)}) top->add_token_ids(id);
  for (const float logprob : {-0.5f, -1.5f}) top->add_logprobs(logprob);
  event.set_finish(Finish::LENGTH);
  event.set_cached_prompt_tokens(2);
  cluster.worker().Send(event);
  const Seen& seen = call->ReadAll();
  ASSERT_EQ(seen.events.at(0).logprobs_size(), 1);
  const v1::TokenLogprobs& logprobs = seen.events[0].logprobs(0);
  EXPECT_EQ(logprobs.token_id(), WordId(1));
  EXPECT_EQ(logprobs.logprob(), -0.5f);
  ASSERT_EQ(logprobs.top_size(), 2);
  EXPECT_EQ(logprobs.top(1).text(), " the");
  EXPECT_EQ(logprobs.top(1).logprob(), -1.5f);
  EXPECT_EQ(seen.finished.cached_prompt_tokens(), 2u);
}

TEST(Generate, KeepsSamplesApart) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.set_num_samples(2);
  request.mutable_stopping()->add_stop_strings("cat");
  grpc::ClientContext context;
  auto reader = cluster.stub()->Generate(&context, request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.num_samples(), 2u);
  for (uint32_t sample = 0; sample < 2; ++sample) {
    v1::WorkerTokenEvent event;
    event.set_key(submit.key());
    event.set_sample_index(sample);
    event.add_token_ids(WordId(0));
    event.add_token_ids(WordId(sample == 0 ? 1 : 2));  // the first one stops at "cat"
    if (sample == 1) event.set_finish(Finish::LENGTH);
    cluster.worker().Send(event);
  }
  std::array<std::string, 2> texts;
  std::array<v1::Finished::Reason, 2> reasons{};
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_tokens()) texts[response.tokens().sample_index()] += response.tokens().text();
    if (response.has_finished()) {
      reasons[response.finished().sample_index()] = response.finished().reason();
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(texts[0], " the ");
  EXPECT_EQ(texts[1], " the sat");
  EXPECT_EQ(reasons[0], v1::Finished::STOP_STRING);
  EXPECT_EQ(reasons[1], v1::Finished::LENGTH);
}

TEST(Generate, ResumesWithoutRepeatingTextAndWithWhatWasHeldBack) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_stopping()->add_stop_strings(" END!");
  request.mutable_sampling()->set_seed(99);
  // The client has the text " cat"; " END" was held back as the start of the stop string.
  request.add_resume_token_ids(WordId(1));
  request.add_resume_token_ids(WordId(3));
  auto call = cluster.Generate(request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.num_resumed(), 2u);
  EXPECT_EQ(submit.sampling().seed(), 99u);
  EXPECT_THAT(Ids(submit.prompt_token_ids()),
              testing::ElementsAre(1, 3 + 'h', 3 + 'i', WordId(1), WordId(3)));
  cluster.worker().Emit(submit.key(), {WordId(2)}, Finish::LENGTH);
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.text, " END sat");
  EXPECT_EQ(seen.events.at(0).first_position(), 2u);
  EXPECT_EQ(seen.finished.generated_tokens(), 3u);
}

TEST(Generate, SendsIdsAloneOnRequest) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_output()->set_no_text(true);
  auto call = cluster.Generate(request);
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {200, 201}, Finish::LENGTH);
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.text, "");
  EXPECT_THAT(seen.ids, testing::ElementsAre(200, 201));
}

TEST(Generate, RefusesBadRequestsAndServesTheNext) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.mutable_sampling()->set_top_p(1.5);
  const Seen refused = cluster.Generate(request)->ReadAll();
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(refused.status.error_message(), "sampling.top_p is 1.5; it must be in (0, 1]");
  const Seen too_long = cluster.Generate(TextRequest(std::string(600, 'x'), 1))->ReadAll();
  EXPECT_EQ(too_long.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(too_long.status.error_message(),
            "prompt has 601 tokens, model 'tiny' takes 511; shorten it");
  auto call = cluster.Generate(TextRequest("hi"));
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {5}, Finish::LENGTH);
  EXPECT_TRUE(call->ReadAll().status.ok());
}

TEST(Generate, CancelsAtTheWorkerWhenTheClientLeaves) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(0)});
  ASSERT_TRUE(call->Read());
  call->Cancel();
  EXPECT_EQ(cluster.worker().AwaitCancel(), key);
  EXPECT_EQ(call->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST(Generate, IsCancelledWhileItsPromptIsEncoded) {
  Cluster cluster;
  cluster.tokenizer().HoldEncodes();
  auto call = cluster.Generate(TextRequest("first"));
  cluster.tokenizer().AwaitEncodes(1);
  call->Cancel();
  EXPECT_EQ(call->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  cluster.AwaitInflight(0, /*queued=*/0);  // the client knows before the gateway does
  cluster.tokenizer().ReleaseEncodes();
  auto next = cluster.Generate(TextRequest("hi"), "next");
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.request_id(), "next");  // the first one never came
  cluster.worker().Emit(submit.key(), {5}, Finish::LENGTH);
  EXPECT_TRUE(next->ReadAll().status.ok());
}

TEST(Generate, EndsAtItsDeadline) {
  Cluster cluster;
  v1::GenerateRequest request = TextRequest("hi");
  request.set_timeout_ms(50);
  auto call = cluster.Generate(request);
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_GT(submit.timeout_ms(), 0);
  EXPECT_LE(submit.timeout_ms(), 50);
  EXPECT_EQ(cluster.worker().AwaitCancel(), submit.key());
  EXPECT_EQ(call->ReadAll().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST(ListModels, TellsOfModelsReplicasAndRanks) {
  FakeWorker::Options other;
  other.model = "other";
  Cluster cluster({}, {{}, {}, other});
  cluster.AwaitReady(3);
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  ASSERT_TRUE(cluster.stub()->ListModels(&context, {}, &response).ok());
  ASSERT_EQ(response.models_size(), 2);
  EXPECT_EQ(response.models(0).name(), "other");
  EXPECT_EQ(response.models(1).name(), "tiny");
  EXPECT_EQ(response.models(1).max_context_tokens(), 512u);
  ASSERT_EQ(response.models(1).replicas_size(), 2);
  EXPECT_EQ(response.models(1).replicas(0).address(), cluster.worker(0).address());
  ASSERT_EQ(response.models(1).replicas(0).ranks_size(), 1);
  EXPECT_EQ(response.models(1).replicas(0).ranks(0).pid(), 42u);
}

}  // namespace
}  // namespace caravan
