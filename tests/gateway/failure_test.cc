// What the gateway makes of replicas and tokenizers that stall, lie, leave and come back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_cluster.h"

namespace caravan {
namespace {

using Finish = v1::WorkerTokenEvent;
using testing::HasSubstr;

FakeWorker::Options WithInstance(uint64_t instance) {
  FakeWorker::Options options;
  options.instance = instance;
  return options;
}

TEST(Failure, OfAReplicaEndsItsRequestsAndNoOthers) {
  Cluster cluster({}, {WithInstance(1), WithInstance(2)});
  cluster.AwaitReady(2);
  auto first = cluster.Generate(TextRequest("hi"));  // equal replicas take turns
  const uint64_t first_key = cluster.worker(0).AwaitSubmit().key();
  auto second = cluster.Generate(TextRequest("hi"));
  const uint64_t second_key = cluster.worker(1).AwaitSubmit().key();
  cluster.worker(0).Emit(first_key, {WordId(0)});
  ASSERT_TRUE(first->Read());
  ASSERT_TRUE(first->Read());
  cluster.worker(0).BreakSessions();
  const Seen& lost = first->ReadAll();
  EXPECT_EQ(lost.text, " the");
  EXPECT_EQ(lost.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(lost.status.error_message(),
              HasSubstr("replica " + cluster.worker(0).address() + " was lost after 1 tokens"));
  cluster.worker(1).Emit(second_key, {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(second->ReadAll().text, " cat");
  EXPECT_TRUE(second->seen().status.ok());
  cluster.AwaitReady(2);  // the gateway connects again
}

TEST(Leaving, AWorkerIsToldWhenAllThatWasAwaitedIsRead) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().GoAway(/*awaits_done=*/true);
  cluster.AwaitReady(0);
  cluster.worker().Emit(key, {WordId(0)});
  ASSERT_TRUE(call->Read());
  ASSERT_TRUE(call->Read());  // the first token, which is handled behind the GoAway
  EXPECT_EQ(cluster.worker().num_dones(), 0U);
  cluster.worker().Emit(key, {WordId(1)}, Finish::LENGTH);
  cluster.worker().AwaitDone();
  EXPECT_EQ(call->ReadAll().text, " the cat");
  EXPECT_TRUE(call->seen().status.ok());
}

TEST(Leaving, AWorkerIsToldAtOnceWhereNothingIsAwaited) {
  Cluster cluster;
  cluster.worker().GoAway(/*awaits_done=*/true);
  cluster.worker().AwaitDone();
}

// An older worker breaks the stream at a message that it does not know.
TEST(Leaving, AWorkerThatDoesNotAskIsNotTold) {
  Cluster cluster;
  cluster.worker().GoAway(/*awaits_done=*/false);
  cluster.AwaitReady(0);
  cluster.worker().SetReady(false);
  cluster.worker().SetReady(true);
  EXPECT_EQ(cluster.worker().num_dones(), 0U);
}

TEST(Failure, OfHeartbeatsKeepsNewRequestsAwayUntilTheReplicaIsHeardAgain) {
  FakeWorker::Options options;
  options.heartbeat_ms = 100;
  Cluster cluster({}, {options, WithInstance(2)});
  cluster.AwaitReady(2);
  cluster.AwaitReady(1);  // the first says no word after its welcome
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker(1).AwaitSubmit().key();
  cluster.worker(1).Emit(key, {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, " cat");
  // Woken up: it speaks, and is ready at once, for a while.
  cluster.worker(0).SetReady(true);
  cluster.AwaitReady(2);
}

TEST(Failure, OfAReplicaBeforeTheFirstEventSendsTheRequestElsewhere) {
  Cluster cluster({}, {WithInstance(1), WithInstance(2)});
  cluster.AwaitReady(2);
  auto call = cluster.Generate(TextRequest("hi"));
  EXPECT_EQ(cluster.worker(0).AwaitSubmit().attempt(), 0u);
  cluster.worker(0).Stop();
  const v1::WorkerSubmit again = cluster.worker(1).AwaitSubmit();
  EXPECT_EQ(again.attempt(), 1u);
  cluster.worker(1).Emit(again.key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, " cat");
  EXPECT_TRUE(call->seen().status.ok());
}

TEST(Failure, OfEachReplicaThatGetsTheRequestEndsIt) {
  Cluster cluster({}, {WithInstance(1), WithInstance(2), WithInstance(3)});
  cluster.AwaitReady(3);
  auto call = cluster.Generate(TextRequest("hi"));
  cluster.worker(0).AwaitSubmit();
  cluster.worker(0).Stop();
  cluster.worker(1).AwaitSubmit();
  cluster.worker(1).Stop();  // it may be the request that kills them: no third try
  EXPECT_EQ(call->ReadAll().status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(Failure, ARefusalBeforeTheFirstTokenSendsTheRequestElsewhere) {
  Cluster cluster({}, {WithInstance(1), WithInstance(2)});
  cluster.AwaitReady(2);
  auto call = cluster.Generate(TextRequest("hi"));
  v1::WorkerTokenEvent refusal;
  refusal.set_key(cluster.worker(0).AwaitSubmit().key());
  refusal.set_finish(Finish::ERROR);
  refusal.set_code(static_cast<int>(grpc::StatusCode::UNAVAILABLE));
  refusal.set_message("draining");
  cluster.worker(0).Send(refusal);
  const uint64_t key = cluster.worker(1).AwaitSubmit().key();
  cluster.worker(1).Emit(key, {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, " cat");
}

TEST(Failure, StaleAndRepeatedEventsAreDropped) {
  FakeWorker::Options options;
  options.epoch = 7;
  Cluster cluster({}, {options});
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  v1::WorkerTokenEvent event;
  event.set_key(key);
  event.add_token_ids(WordId(0));
  v1::WorkerSessionResponse response = cluster.worker().Response();
  *response.mutable_events()->add_events() = event;
  response.set_epoch(6);
  cluster.worker().Send(response);  // an older epoch
  response.set_epoch(7);
  response.set_instance(99);
  cluster.worker().Send(response);  // another instance
  event.set_attempt(3);
  cluster.worker().Send(event);  // another attempt
  event.set_attempt(0);
  event.set_key(key + 1000);
  cluster.worker().Send(event);  // another request
  event.set_key(key);
  cluster.worker().Send(event);  // the true one
  event.add_token_ids(WordId(1));
  event.set_finish(Finish::LENGTH);
  cluster.worker().Send(event);  // repeats position 0
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.text, " the cat");
  EXPECT_EQ(seen.finished.generated_tokens(), 2u);
  EXPECT_EQ(cluster.gateway().metrics().stale_events.Value(), 5);
}

TEST(Failure, AGapInPositionsEndsTheRequest) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  v1::WorkerTokenEvent event;
  event.set_key(cluster.worker().AwaitSubmit().key());
  event.set_first_position(1);
  event.add_token_ids(5);
  cluster.worker().Send(event);
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_TRUE(seen.ids.empty());
}

TEST(Failure, TheWorkersErrorIsTheClients) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  v1::WorkerTokenEvent event;
  event.set_key(cluster.worker().AwaitSubmit().key());
  event.set_finish(Finish::ERROR);
  event.set_code(static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  event.set_message("4096 requests wait");
  cluster.worker().Send(event);
  EXPECT_EQ(call->ReadAll().status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(call->seen().status.error_message(), "4096 requests wait");
}

TEST(Failure, RequestsWaitForAReplicaThatForms) {
  Cluster cluster;
  cluster.worker().SetReady(false);
  cluster.AwaitReady(0);
  auto call = cluster.Generate(TextRequest("hi"));
  cluster.AwaitInflight(0, /*queued=*/1);
  cluster.worker().SetReady(true);
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, " cat");
}

TEST(Failure, RequestsThatWaitTooLongForAReplicaEnd) {
  GatewayConfig config;
  config.admission.queue_timeout_ms = 20;
  Cluster cluster(config);
  cluster.worker().SetReady(false);
  cluster.AwaitReady(0);
  const Seen seen = cluster.Generate(TextRequest("hi"))->ReadAll();
  EXPECT_EQ(seen.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(seen.status.error_message(), "no replica of model 'tiny' became ready within 20 ms");
}

TEST(Failure, TheFullQueueRefusesAtOnce) {
  GatewayConfig config;
  config.admission.max_inflight_requests = 1;
  config.admission.max_queued_requests = 1;
  Cluster cluster(config);
  auto running = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  auto waiting = cluster.Generate(TextRequest("hi"));
  cluster.AwaitInflight(1, /*queued=*/1);
  const Seen refused = cluster.Generate(TextRequest("hi"))->ReadAll();
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("1 requests wait (limit 1)"));
  cluster.worker().Emit(key, {WordId(1)}, Finish::LENGTH);
  EXPECT_TRUE(running->ReadAll().status.ok());
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_TRUE(waiting->ReadAll().status.ok());
}

TEST(Failure, ARefusedEncodeIsTriedAgain) {
  Cluster cluster;
  cluster.tokenizer().RefuseEncodes(2);
  auto call = cluster.Generate(TextRequest("hi"));
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, " cat");
  EXPECT_EQ(cluster.tokenizer().num_encodes(), 3);
}

TEST(Failure, WithoutATokenizerRequestsEndInTime) {
  GatewayConfig config;
  config.tokenizer_timeout_ms = 50;
  Cluster cluster(config);
  cluster.tokenizer().Stop();
  const Seen seen = cluster.Generate(TextRequest("hi"))->ReadAll();
  EXPECT_EQ(seen.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(seen.status.error_message(), HasSubstr("no tokenizer answers"));
}

TEST(Failure, OfADecodeSessionLosesAndRepeatsNoByte) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(0), 3 + 0xc3});  // the first half of é is held back
  while (call->seen().ids.size() < 2) ASSERT_TRUE(call->Read());
  cluster.tokenizer().BreakSessions();
  cluster.worker().Emit(key, {3 + 0xa9, WordId(1)}, Finish::LENGTH);
  const Seen& seen = call->ReadAll();
  EXPECT_TRUE(seen.status.ok()) << seen.status.error_message();
  EXPECT_EQ(seen.text, " the\xc3\xa9 cat");
  EXPECT_EQ(seen.ids.size(), 4u);
}

TEST(Failure, OfATokenizerMovesItsSequencesToAnother) {
  Cluster cluster({}, {{}}, nullptr, /*num_tokenizers=*/2);
  std::vector<std::unique_ptr<GenerateCall>> calls;
  std::vector<uint64_t> keys;
  for (int i = 0; i < 4; ++i) {
    calls.push_back(cluster.Generate(TextRequest("hi")));
    keys.push_back(cluster.worker().AwaitSubmit().key());
    cluster.worker().Emit(keys.back(), {WordId(0)});
    while (calls.back()->seen().ids.empty()) ASSERT_TRUE(calls.back()->Read());
  }
  cluster.tokenizer(0).Stop();
  for (int i = 0; i < 4; ++i) {
    cluster.worker().Emit(keys[i], {WordId(1)}, Finish::LENGTH);
    EXPECT_EQ(calls[i]->ReadAll().text, " the cat");
    EXPECT_TRUE(calls[i]->seen().status.ok());
  }
}

TEST(Failure, OfAModelThatDrawsWhatItsTokenizerHasNotIsSaidToBeThat) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(0), WordId(100)});
  const Seen& seen = call->ReadAll();
  EXPECT_EQ(seen.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(seen.status.error_message(),
              HasSubstr("the model drew token id 359 and the tokenizer has ids from 0 to 264"));
}

TEST(Failure, AStopTokenThatTheTokenizerHasNotIsNone) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(0), WordId(100)}, Finish::STOP_TOKEN);
  const Seen& seen = call->ReadAll();
  EXPECT_TRUE(seen.status.ok()) << seen.status.error_message();
  EXPECT_EQ(seen.text, " the");
}

// What sequences have so far is sent once more, as large as it is, in messages that are taken.
TEST(Failure, OfADecodeSessionRepeatsLongSequencesInMessagesThatTheTokenizerTakes) {
  constexpr int kTokens = 2000;
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster({}, {options});
  std::vector<std::unique_ptr<GenerateCall>> calls;
  std::vector<uint64_t> keys;
  std::string expected;
  for (int i = 0; i < kTokens; ++i) expected += " the";
  for (int i = 0; i < 4; ++i) {
    calls.push_back(cluster.Generate(TextRequest("hi", 100000)));
    keys.push_back(cluster.worker().AwaitSubmit().key());
    cluster.worker().Emit(keys.back(), std::vector<int32_t>(kTokens, WordId(0)));
    while (calls.back()->seen().text.size() < expected.size()) ASSERT_TRUE(calls.back()->Read());
  }
  cluster.tokenizer().BoundMessages(1000);  // all sequences have 16,000 bytes of ids
  cluster.tokenizer().BreakSessions();
  for (int i = 0; i < 4; ++i) {
    cluster.worker().Emit(keys[i], {WordId(1)}, Finish::LENGTH);
    const Seen& seen = calls[i]->ReadAll();
    EXPECT_TRUE(seen.status.ok()) << seen.status.error_message();
    EXPECT_EQ(seen.text, expected + " cat");
  }
  EXPECT_EQ(cluster.tokenizer().num_refused_messages(), 0);
}

TEST(Failure, ASlowReaderLosesItsRequestAndNobodyElse) {
  GatewayConfig config;
  config.output.max_buffered_tokens = 50;
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster(config, {options});
  const auto slow_stub = cluster.StubOfSmallWindow();
  auto slow = std::make_unique<GenerateCall>(slow_stub.get(), TextRequest("slow", 100000));
  const uint64_t slow_key = cluster.worker().AwaitSubmit().key();
  auto fast = cluster.Generate(TextRequest("fast", 100000));
  const uint64_t fast_key = cluster.worker().AwaitSubmit().key();
  // Until the slow one's window and buffer are full and the gateway gives it up, the other one gets
  // each of its tokens.
  std::vector<int32_t> slow_tokens;
  const std::vector<int32_t> batch(40, WordId(0));
  while (cluster.worker().num_cancels() == 0) {
    ASSERT_LT(slow_tokens.size(), 1u << 20) << "nothing stops the slow request";
    slow_tokens.insert(slow_tokens.end(), batch.begin(), batch.end());
    cluster.worker().Emit(slow_key, batch);
    cluster.worker().Emit(fast_key, {WordId(1)});
    const size_t expected = fast->seen().ids.size() + 1;
    while (fast->seen().ids.size() < expected) ASSERT_TRUE(fast->Read());
  }
  EXPECT_EQ(cluster.worker().AwaitCancel(), slow_key);
  cluster.worker().Emit(fast_key, {WordId(2)}, Finish::LENGTH);
  EXPECT_TRUE(fast->ReadAll().status.ok());
  const Seen& seen = slow->ReadAll();  // it gets what was buffered, then the reason
  EXPECT_EQ(seen.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(seen.status.error_message(), HasSubstr("the client reads too slowly"));
  EXPECT_GT(seen.ids.size(), 50u);
  EXPECT_LE(seen.ids.size(), slow_tokens.size());
  EXPECT_GT(seen.events.back().num_tokens(), 1u) << "what waited is merged";
  EXPECT_EQ(cluster.gateway().metrics().slow_readers.Value(), 1);
}

TEST(Failure, AClientThatNeverReadsIsBrokenOff) {
  GatewayConfig config;
  config.output.max_buffered_tokens = 50;
  config.output.slow_reader_timeout_ms = 50;
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster(config, {options});
  const auto slow_stub = cluster.StubOfSmallWindow();
  auto slow = std::make_unique<GenerateCall>(slow_stub.get(), TextRequest("slow", 1000000));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  while (cluster.worker().num_cancels() == 0) {
    cluster.worker().Emit(key, std::vector<int32_t>(40, WordId(0)));
  }
  cluster.AwaitNoCalls();  // though the client has read nothing
  EXPECT_FALSE(slow->ReadAll().status.ok());
}

}  // namespace
}  // namespace caravan
