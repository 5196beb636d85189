// Generation.Session: many requests on one stream.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <map>

#include "tests/gateway/gateway_cluster.h"

namespace caravan {
namespace {

using Finish = v1::WorkerTokenEvent;
using testing::HasSubstr;

// A Session call under way, and what it has brought for each request.
class SessionCall {
 public:
  explicit SessionCall(v1::Generation::Stub* stub) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = stub->Session(&context_);
  }

  void Start(const std::string& id, v1::GenerateRequest request = TextRequest("hi")) {
    v1::SessionRequest message;
    *message.mutable_start() = std::move(request);
    message.mutable_start()->set_request_id(id);
    stream_->Write(message);
  }
  void Cancel(const std::string& id) {
    v1::SessionRequest message;
    message.mutable_cancel()->set_request_id(id);
    stream_->Write(message);
  }
  void Credit(const std::string& id, uint32_t tokens) {
    v1::SessionRequest message;
    message.mutable_credit()->set_request_id(id);
    message.mutable_credit()->set_tokens(tokens);
    stream_->Write(message);
  }
  void HalfClose() { stream_->WritesDone(); }
  void Reset() { context_.TryCancel(); }
  bool Write(const v1::SessionRequest& message) { return stream_->Write(message); }

  bool Read() {
    v1::SessionResponse response;
    if (!stream_->Read(&response)) return false;
    if (response.has_go_away()) going_away_ = response.go_away();
    if (!response.has_event()) return true;
    Seen& seen = requests_[response.event().request_id()];
    seen.Add(response.event().event());
    if (response.event().event().has_finished()) {
      finishes_.emplace_back(response.event().request_id(), response.event().event().finished());
    }
    return true;
  }
  // The next Finished of any request.
  std::pair<std::string, v1::Finished> ReadFinished() {
    const size_t before = finishes_.size();
    while (finishes_.size() == before) CARAVAN_CHECK(Read(), "the stream ended");
    return finishes_.back();
  }
  void ReadTokens(const std::string& id, size_t count) {
    while (requests_[id].ids.size() < count) CARAVAN_CHECK(Read(), "the stream ended");
  }
  grpc::Status ReadAll() {
    while (Read()) {
    }
    return stream_->Finish();
  }
  const Seen& seen(const std::string& id) { return requests_[id]; }
  const v1::GoAway& going_away() const { return going_away_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  std::map<std::string, Seen> requests_;
  std::vector<std::pair<std::string, v1::Finished>> finishes_;
  v1::GoAway going_away_;
};

TEST(Session, CarriesManyRequestsAndLetsThemFinishAfterHalfClose) {
  Cluster cluster;
  SessionCall session(cluster.stub());
  session.Start("a");
  const v1::WorkerSubmit a = cluster.worker().AwaitSubmit();
  session.Start("b");
  const v1::WorkerSubmit b = cluster.worker().AwaitSubmit();
  EXPECT_EQ(a.request_id(), "a");
  session.HalfClose();
  cluster.worker().Emit(a.key(), {WordId(0)});
  cluster.worker().Emit(b.key(), {WordId(2)}, Finish::LENGTH);
  cluster.worker().Emit(a.key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_TRUE(session.ReadAll().ok());
  EXPECT_EQ(session.seen("a").text, " the cat");
  EXPECT_EQ(session.seen("a").started.request_id(), "a");
  EXPECT_EQ(session.seen("b").text, " sat");
  EXPECT_EQ(session.seen("b").finished.reason(), v1::Finished::LENGTH);
}

TEST(Session, SurvivesBadRequests) {
  Cluster cluster;
  SessionCall session(cluster.stub());
  v1::GenerateRequest bad = TextRequest("hi");
  bad.mutable_sampling()->set_temperature(-1);
  session.Start("bad", bad);
  const auto [id, finished] = session.ReadFinished();
  EXPECT_EQ(id, "bad");
  EXPECT_EQ(finished.reason(), v1::Finished::ERROR);
  EXPECT_EQ(finished.code(), static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  EXPECT_EQ(finished.message(), "sampling.temperature is -1; it must be in [0, 100]");
  session.Start("");
  EXPECT_THAT(session.ReadFinished().second.message(), HasSubstr("request_id is empty"));
  session.Write(v1::SessionRequest());
  EXPECT_THAT(session.ReadFinished().second.message(), HasSubstr("has no content"));
  session.Start("good");
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().first, "good");
  EXPECT_EQ(session.seen("good").text, " cat");
}

TEST(Session, RefusesASecondRequestOfTheSameIdAndKeepsTheFirst) {
  Cluster cluster;
  SessionCall session(cluster.stub());
  session.Start("a");
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  session.Start("a");
  const v1::Finished refused = session.ReadFinished().second;
  EXPECT_EQ(refused.code(), static_cast<int>(grpc::StatusCode::ALREADY_EXISTS));
  cluster.worker().Emit(key, {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().second.reason(), v1::Finished::LENGTH);
  EXPECT_EQ(session.seen("a").text, " cat");
  session.Start("a");  // free again
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(2)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().second.reason(), v1::Finished::LENGTH);
}

TEST(Session, CancelsOneRequest) {
  Cluster cluster;
  SessionCall session(cluster.stub());
  session.Start("a");
  const uint64_t a = cluster.worker().AwaitSubmit().key();
  session.Start("b");
  const uint64_t b = cluster.worker().AwaitSubmit().key();
  session.Cancel("nobody");
  session.Cancel("a");
  EXPECT_EQ(cluster.worker().AwaitCancel(), a);
  const auto [id, finished] = session.ReadFinished();
  EXPECT_EQ(id, "a");
  EXPECT_EQ(finished.reason(), v1::Finished::CANCELLED);
  cluster.worker().Emit(b, {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().first, "b");
  EXPECT_EQ(cluster.gateway().metrics().unknown_cancels.Value(), 1);
}

TEST(Session, StopsARequestsEventsWhenItsCreditIsUsedUp) {
  Cluster cluster;
  SessionCall session(cluster.stub());
  session.Start("paced");
  const uint64_t paced = cluster.worker().AwaitSubmit().key();
  session.Start("free");
  const uint64_t free = cluster.worker().AwaitSubmit().key();
  session.Credit("paced", 2);
  session.Start("bad", v1::GenerateRequest());
  session.ReadFinished();  // messages are handled in order: the credit has come
  cluster.worker().Emit(paced, {WordId(0), WordId(1), WordId(2), WordId(0)}, Finish::LENGTH);
  cluster.worker().Emit(free, {WordId(1), WordId(1), WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().first, "free");
  session.ReadTokens("paced", 2);
  EXPECT_EQ(session.seen("paced").text, " the cat");
  session.Credit("paced", 1);
  session.ReadTokens("paced", 3);
  EXPECT_EQ(session.seen("paced").text, " the cat sat");
  session.Credit("paced", 5);
  EXPECT_EQ(session.ReadFinished().first, "paced");
  EXPECT_EQ(session.seen("paced").ids.size(), 4u);
}

TEST(Session, CancelsItsRequestsWhenItBreaks) {
  Cluster cluster;
  SessionCall session(cluster.stub());
  session.Start("a");
  const uint64_t a = cluster.worker().AwaitSubmit().key();
  session.Start("b");
  const uint64_t b = cluster.worker().AwaitSubmit().key();
  session.Reset();
  EXPECT_THAT(
      (std::vector<uint64_t>{cluster.worker().AwaitCancel(), cluster.worker().AwaitCancel()}),
      testing::UnorderedElementsAre(a, b));
  EXPECT_EQ(session.ReadAll().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(Session, AnOversizedMessageEndsItsOwnStreamOnly) {
  GatewayConfig config;
  config.max_message_bytes = 4096;
  Cluster cluster(config);
  auto call = cluster.Generate(TextRequest("hi"));  // on the same connection
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  SessionCall session(cluster.stub());
  session.Start("big", TextRequest(std::string(10000, 'x')));
  EXPECT_EQ(session.ReadAll().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  cluster.worker().Emit(key, {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(call->ReadAll().text, " cat");
}

TEST(Session, MergesWhatASlowClientHasNotReadAndGivesItUp) {
  GatewayConfig config;
  config.output.max_buffered_tokens = 50;
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster(config, {options});
  SessionCall session(cluster.stub());
  session.Start("a", TextRequest("hi", 100000));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  session.Credit("a", 1);
  std::vector<int32_t> sent;
  while (cluster.worker().num_cancels() == 0) {
    cluster.worker().Emit(key, {WordId(0)});
    ASSERT_LT(sent.size(), 100000u);
    sent.push_back(WordId(0));
  }
  session.ReadTokens("a", 1);
  session.Credit("a", 1000000);
  const v1::Finished finished = session.ReadFinished().second;
  EXPECT_EQ(finished.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_GE(session.seen("a").ids.size(), 50u);
  EXPECT_LE(session.seen("a").events.size(), 10u) << "what waited is merged";
}

// Request "a" has ended with three tokens, and there is credit for one.
void EndWithTokensWaiting(Cluster& cluster, SessionCall& session) {
  session.Start("a");
  const uint64_t a = cluster.worker().AwaitSubmit().key();
  session.Credit("a", 1);
  session.Start("bad", v1::GenerateRequest());
  session.ReadFinished();  // messages are handled in order: the credit has come
  cluster.worker().Emit(a, {WordId(0), WordId(1), WordId(2)}, Finish::LENGTH);
}

TEST(Session, KeepsARequestsPlaceInFlightUntilItsOutputHasLeft) {
  GatewayConfig config;
  config.admission.max_inflight_requests = 1;
  Cluster cluster(config);
  SessionCall session(cluster.stub());
  EndWithTokensWaiting(cluster, session);
  session.ReadTokens("a", 1);
  session.Start("b");
  cluster.AwaitInflight(1, 1);
  session.Credit("a", 2);
  EXPECT_EQ(session.ReadFinished().first, "a");
  EXPECT_EQ(session.seen("a").text, " the cat sat");
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().first, "b");
  cluster.AwaitInflight(0, 0);
}

TEST(Session, DropsWhatWaitsForCreditTooLong) {
  GatewayConfig config;
  config.output.slow_reader_timeout_ms = 50;
  Cluster cluster(config);
  SessionCall session(cluster.stub());
  EndWithTokensWaiting(cluster, session);
  const auto [id, finished] = session.ReadFinished();
  EXPECT_EQ(id, "a");
  EXPECT_EQ(finished.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_THAT(finished.message(), HasSubstr("no credit came for 50 ms"));
  EXPECT_EQ(session.seen("a").text, " the");
  session.Start("b");  // the session goes on
  cluster.worker().Emit(cluster.worker().AwaitSubmit().key(), {WordId(1)}, Finish::LENGTH);
  EXPECT_EQ(session.ReadFinished().first, "b");
}

// The timer that the first message had started ended just before, and then ran a whole period more.
TEST(Session, DropsWhatWaitsForCreditAfterTheTimeItSays) {
  GatewayConfig config;
  config.output.slow_reader_timeout_ms = 1000;
  Cluster cluster(config);
  SessionCall session(cluster.stub());
  session.Start("a");
  const uint64_t a = cluster.worker().AwaitSubmit().key();
  session.Credit("a", 1);
  cluster.worker().Emit(a, {WordId(0)}, Finish::NONE);
  session.ReadTokens("a", 1);
  const auto ended = std::chrono::steady_clock::now();
  cluster.worker().Emit(a, {WordId(1), WordId(2)}, Finish::LENGTH);
  EXPECT_THAT(session.ReadFinished().second.message(), HasSubstr("no credit came for 1000 ms"));
  const auto waited = std::chrono::steady_clock::now() - ended;
  EXPECT_GE(waited, std::chrono::milliseconds(990));
  EXPECT_LT(waited, std::chrono::milliseconds(1700));
}

TEST(Session, OfAClientThatNeverReadsIsBrokenOff) {
  GatewayConfig config;
  config.output.max_buffered_tokens = 20000;  // more than fits on the way
  config.output.slow_reader_timeout_ms = 50;
  FakeWorker::Options options;
  options.max_context_tokens = 1 << 20;
  Cluster cluster(config, {options});
  const auto slow_stub = cluster.StubOfSmallWindow();
  SessionCall session(slow_stub.get());
  session.Start("a", TextRequest("hi", 1000000));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  while (cluster.worker().num_cancels() == 0) {
    cluster.worker().Emit(key, std::vector<int32_t>(400, WordId(0)));
  }
  cluster.AwaitNoCalls();  // though the client has read nothing
  EXPECT_EQ(session.ReadAll().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(Drain, LetsRequestsFinishAndSendsClientsAway) {
  GatewayConfig config;
  config.drain_timeout_ms = 20000;
  Cluster cluster(config);
  SessionCall session(cluster.stub());
  session.Start("a");
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  std::future<int> drained =
      std::async(std::launch::async, [&] { return cluster.gateway().Drain(); });
  cluster.AwaitServing(false);
  while (session.going_away().reason().empty()) ASSERT_TRUE(session.Read());
  EXPECT_EQ(session.going_away().drain_timeout_ms(), 20000u);
  session.Start("late");
  const auto [id, refused] = session.ReadFinished();
  EXPECT_EQ(id, "late");
  EXPECT_EQ(refused.code(), static_cast<int>(grpc::StatusCode::UNAVAILABLE));
  cluster.worker().Emit(key, {WordId(1)}, Finish::LENGTH);
  EXPECT_TRUE(session.ReadAll().ok());
  EXPECT_EQ(session.seen("a").text, " cat");
  EXPECT_EQ(drained.get(), 0);
}

TEST(Drain, CutsOffWhatDoesNotFinishInTime) {
  GatewayConfig config;
  config.drain_timeout_ms = 50;
  Cluster cluster(config);
  auto call = cluster.Generate(TextRequest("hi"));
  cluster.worker().AwaitSubmit();
  EXPECT_EQ(cluster.gateway().Drain(), 1);
  EXPECT_EQ(call->ReadAll().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(call->seen().status.error_message(), HasSubstr("shutting down"));
}

TEST(Drain, CountsOutputThatItsClientHasNotTaken) {
  GatewayConfig config;
  config.drain_timeout_ms = 100;
  Cluster cluster(config);
  SessionCall session(cluster.stub());
  EndWithTokensWaiting(cluster, session);
  session.ReadTokens("a", 1);
  EXPECT_EQ(cluster.gateway().Drain(), 1);
}

}  // namespace
}  // namespace caravan
