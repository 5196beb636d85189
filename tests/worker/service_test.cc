#include "worker/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "common/server.h"
#include "tests/worker/engine/fake_model_runner.h"
#include "tests/worker/worker_client.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kInstance = 42;

// The fake runner, with a gate that holds back results while it is closed.
class GatedRunner : public FakeModelRunner {
 public:
  using FakeModelRunner::FakeModelRunner;

  absl::StatusOr<StepResult> Collect() override {
    {
      std::unique_lock lock(mutex_);
      ++waiting_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_; });
      --waiting_;
    }
    return FakeModelRunner::Collect();
  }
  void Open() { Set(true); }
  void Close() { Set(false); }
  // The engine waits for a result which the gate holds back.
  void AwaitBlocked() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !open_ && waiting_ > 0; });
  }

 private:
  void Set(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
};

class WorkerServiceTest : public ::testing::Test {
 protected:
  explicit WorkerServiceTest(int64_t max_session_tokens = 1 << 18)
      : metrics_(&registry_, 1),
        runner_(Limits()),
        service_(Options(max_session_tokens), View(), &metrics_) {
    auto server = GrpcServer::Start({}, {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = "127.0.0.1:" + std::to_string(server_->port());
    engine_ = std::make_shared<Engine>(
        EngineOptions(), &runner_,
        [this](const std::vector<TokenEvent>& events) { service_.Deliver(events); });
  }
  ~WorkerServiceTest() override {
    runner_.Open();
    engine_->Stop();
    service_.Stop();
    server_->Shutdown(absl::Now());
    EXPECT_EQ(runner_.errors(), std::vector<std::string>());
  }

  static RunnerLimits Limits() {
    RunnerLimits limits;
    limits.block_tokens = 4;
    limits.num_blocks = 1000;
    limits.max_slots = 64;
    limits.max_batch_tokens = 512;
    limits.max_context_tokens = 100000;
    limits.vocab_size = 100;
    return limits;
  }
  static WorkerService::Options Options(int64_t max_session_tokens) {
    WorkerService::Options options;
    options.instance = kInstance;
    options.max_session_tokens = max_session_tokens;
    return options;
  }
  ReplicaView View() {
    return {[this] { return epoch_.load(); }, [] { return std::vector<v1::WorkerRank>(1); },
            [this] { return progress_.load(); }};
  }
  v1::WorkerModel Model() const {
    v1::WorkerModel model;
    model.set_name("model");
    model.set_vocabulary_size(100);
    model.set_max_context_tokens(100000);
    model.set_max_prompt_tokens(3999);
    model.set_fingerprint("f00d");
    return model;
  }
  void Serve() {
    epoch_ = 1;
    engine_->Start();
    service_.Serve({engine_, Model()});
  }
  v1::GetWorkerStatusResponse Status(WorkerClient& client) {
    grpc::ClientContext context;
    v1::GetWorkerStatusResponse response;
    EXPECT_TRUE(client.stub().GetStatus(&context, {}, &response).ok());
    return response;
  }

  MetricsRegistry registry_;
  WorkerMetrics metrics_;
  std::atomic<uint64_t> epoch_{0};
  std::atomic<uint64_t> progress_{0};
  GatedRunner runner_;
  std::shared_ptr<Engine> engine_;
  WorkerService service_;
  std::unique_ptr<GrpcServer> server_;
  std::string address_;
};

TEST_F(WorkerServiceTest, ASessionIsWelcomedWhenTheModelIsServedAndAgainWithEachEpoch) {
  WorkerClient client(address_);
  EXPECT_EQ(Status(client).state(), "loading");
  client.Submit(MakeSubmit(1, 3, 2));
  EXPECT_EQ(client.ReadUntilFinished(1).last.code(), grpc::StatusCode::UNAVAILABLE);
  Serve();
  ASSERT_TRUE(client.ReadUntilWelcome());
  EXPECT_EQ(client.last().instance(), kInstance);
  EXPECT_EQ(client.last().epoch(), 1U);
  EXPECT_EQ(client.welcome().model().name(), "model");
  EXPECT_TRUE(client.load().ready());
  EXPECT_EQ(Status(client).state(), "ready");
  epoch_ = 2;
  service_.OnEpoch();
  ASSERT_TRUE(client.ReadUntilWelcome(2));
  EXPECT_EQ(client.last().epoch(), 2U);
}

TEST_F(WorkerServiceTest, TokensOfAllRequestsComeInOneMessageAStep) {
  Serve();
  runner_.Close();
  WorkerClient client(address_);
  client.Submit(MakeSubmit(1, 5, 20));
  runner_.AwaitBlocked();
  for (uint64_t key = 2; key <= 8; ++key) client.Submit(MakeSubmit(key, 5, 20));
  while (engine_->Stats().waiting_requests < 1) std::this_thread::yield();
  runner_.Open();
  for (uint64_t key = 1; key <= 8; ++key) {
    const ClientOutput& output = client.ReadUntilFinished(key);
    EXPECT_EQ(output.last.finish(), v1::WorkerTokenEvent::LENGTH);
    EXPECT_EQ(output.token_ids.size(), 20U);
  }
  EXPECT_GT(client.most_events_in_a_message(), 1);
}

TEST_F(WorkerServiceTest, EachSampleFinishesAndTheKeyCanBeUsedAgainAfterTheLast) {
  Serve();
  WorkerClient client(address_);
  v1::WorkerSubmit submit = MakeSubmit(7, 5, 4);
  submit.set_num_samples(3);
  submit.set_attempt(2);
  client.Submit(submit);
  EXPECT_EQ(client.ReadUntilFinished(7, 3).token_ids.size(), 12U);
  EXPECT_EQ(client.output(7).last.attempt(), 2U);
  client.Submit(submit);
  EXPECT_EQ(client.ReadUntilFinished(7, 6).token_ids.size(), 24U);
}

TEST_F(WorkerServiceTest, ABadRequestFailsAloneAndNamesTheField) {
  Serve();
  WorkerClient client(address_);
  client.Submit(MakeSubmit(1, 5, 1000));
  v1::WorkerSubmit bad = MakeSubmit(2, 5, 10);
  bad.set_prompt_token_ids(3, 100);
  client.Submit(bad);
  v1::WorkerSubmit unknown = MakeSubmit(3, 5, 10);
  unknown.set_response_format("x");
  client.Submit(unknown);
  const v1::WorkerTokenEvent refused = client.ReadUntilFinished(2).last;
  EXPECT_EQ(refused.finish(), v1::WorkerTokenEvent::ERROR);
  EXPECT_EQ(refused.code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.message(), HasSubstr("100"));
  EXPECT_EQ(client.ReadUntilFinished(3).last.code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(client.ReadUntilFinished(1).token_ids.size(), 1000U);
}

TEST_F(WorkerServiceTest, AKeyInUseIsRefusedAndItsRequestGoesOn) {
  Serve();
  runner_.Close();
  WorkerClient client(address_);
  client.Submit(MakeSubmit(1, 5, 10));
  client.Submit(MakeSubmit(1, 5, 10));
  EXPECT_EQ(client.ReadUntilFinished(1).last.code(), grpc::StatusCode::ALREADY_EXISTS);
  runner_.Open();
  EXPECT_EQ(client.ReadUntilFinished(1, 2).last.finish(), v1::WorkerTokenEvent::LENGTH);
}

TEST_F(WorkerServiceTest, CancelEndsARequestAndAnUnknownKeyIsIgnored) {
  Serve();
  WorkerClient client(address_);
  client.Cancel(99);
  client.Submit(MakeSubmit(1, 5, 90000));
  ASSERT_TRUE(client.ReadUntilTokens(1, 1));
  client.Cancel(1);
  EXPECT_EQ(client.ReadUntilFinished(1).last.finish(), v1::WorkerTokenEvent::CANCELLED);
}

TEST_F(WorkerServiceTest, ABrokenOrHalfClosedSessionCancelsItsRequestsAndNoOthers) {
  Serve();
  WorkerClient stays(address_);
  for (const bool half_close : {false, true}) {
    runner_.Close();
    WorkerClient leaves(address_);
    leaves.Submit(MakeSubmit(1, 5, 90000));
    stays.Submit(MakeSubmit(1, 5, 50));
    runner_.AwaitBlocked();
    // Both have come: a session that breaks before its request is read has none to cancel.
    const auto come = [&] {
      const EngineStats stats = engine_->Stats();
      return stats.waiting_requests + stats.running_sequences;
    };
    while (come() < 2) std::this_thread::yield();
    const uint64_t cancelled = engine_->Stats().cancelled;
    if (half_close) {
      leaves.HalfClose();
    } else {
      leaves.Break();
    }
    runner_.Open();
    leaves.Finish();
    while (engine_->Stats().cancelled == cancelled) std::this_thread::yield();
    EXPECT_EQ(stays.ReadUntilFinished(1, half_close ? 2 : 1).last.finish(),
              v1::WorkerTokenEvent::LENGTH);
  }
  EXPECT_EQ(engine_->Stats().used_blocks, 0);
}

TEST_F(WorkerServiceTest, DrainTellsSessionsRefusesNewRequestsAndAnswersWhenAllFinished) {
  Serve();
  runner_.Close();
  WorkerClient client(address_);
  ASSERT_TRUE(client.ReadUntilWelcome());
  client.Submit(MakeSubmit(1, 5, 10));
  runner_.AwaitBlocked();
  const auto drain = [&](uint32_t timeout_ms) {
    grpc::ClientContext context;
    v1::DrainRequest request;
    request.set_timeout_ms(timeout_ms);
    v1::DrainResponse response;
    return client.stub().Drain(&context, request, &response);
  };
  const grpc::Status late = drain(1);
  EXPECT_EQ(late.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(late.error_message(), HasSubstr("1 requests"));
  ASSERT_TRUE(client.ReadUntil([&] { return client.going_away(); }));
  client.Submit(MakeSubmit(2, 5, 10));
  EXPECT_EQ(client.ReadUntilFinished(2).last.code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Status(client).state(), "draining");
  runner_.Open();
  EXPECT_TRUE(drain(20000).ok());
  EXPECT_EQ(client.ReadUntilFinished(1).last.finish(), v1::WorkerTokenEvent::LENGTH);
  ASSERT_TRUE(client.ReadUntil([&] { return !client.load().ready(); }));
}

// A worker that stops used to sleep for a while instead, so that a gateway could read the end.
TEST_F(WorkerServiceTest, WaitsForGatewaysThatHaveNotReadAllThatTheyAwait) {
  Serve();
  runner_.Close();
  WorkerClient busy(address_);
  WorkerClient idle(address_);
  ASSERT_TRUE(busy.ReadUntilWelcome());
  ASSERT_TRUE(idle.ReadUntilWelcome());
  busy.Submit(MakeSubmit(1, 5, 10));
  runner_.AwaitBlocked();
  service_.GoAway("the worker is stopped", absl::Seconds(20));
  ASSERT_TRUE(idle.ReadUntil([&] { return idle.going_away(); }));
  EXPECT_TRUE(idle.go_away().awaits_done());
  idle.Done();
  runner_.Open();
  EXPECT_TRUE(engine_->Drain(absl::Seconds(20)));
  EXPECT_FALSE(service_.AwaitGateways(absl::Milliseconds(1)));
  EXPECT_EQ(busy.ReadUntilFinished(1).token_ids.size(), 10U);
  busy.Done();
  EXPECT_TRUE(service_.AwaitGateways(absl::Seconds(20)));
  EXPECT_EQ(service_.num_sessions(), 2U);  // both are still told of the load
  service_.Stop();
  EXPECT_TRUE(idle.Finish().ok());
  EXPECT_TRUE(busy.Finish().ok());
  EXPECT_EQ(metrics_.cancelled_requests.Value(), 0);
}

TEST_F(WorkerServiceTest, DoesNotWaitForAGatewayThatIsGone) {
  Serve();
  WorkerClient client(address_);
  ASSERT_TRUE(client.ReadUntilWelcome());
  service_.GoAway("the worker is stopped", absl::Seconds(20));
  ASSERT_TRUE(client.ReadUntil([&] { return client.going_away(); }));
  EXPECT_FALSE(service_.AwaitGateways(absl::ZeroDuration()));
  client.Break();
  EXPECT_TRUE(service_.AwaitGateways(absl::Seconds(20)));
  while (service_.num_sessions() > 0) std::this_thread::yield();
}

TEST_F(WorkerServiceTest, ALostRankFailsRequestsInFlightAndReadinessFollows) {
  Serve();
  runner_.Close();
  WorkerClient client(address_);
  ASSERT_TRUE(client.ReadUntilWelcome());
  client.Submit(MakeSubmit(1, 5, 10));
  runner_.AwaitBlocked();
  runner_.Fail(absl::UnavailableError("rank 1 was lost"), /*recover_after_calls=*/1000000000);
  runner_.Open();
  const v1::WorkerTokenEvent failed = client.ReadUntilFinished(1).last;
  EXPECT_EQ(failed.code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(failed.message(), HasSubstr("rank 1"));
  ASSERT_TRUE(client.ReadUntil([&] { return !client.load().ready(); }));
  EXPECT_EQ(Status(client).state(), "forming");
}

TEST_F(WorkerServiceTest, AWorkerThatGetsNowhereForASecondIsNotReadyUntilItGoesOn) {
  Serve();
  runner_.Close();
  WorkerClient client(address_);
  ASSERT_TRUE(client.ReadUntilWelcome());
  client.Submit(MakeSubmit(1, 5, 10));
  runner_.AwaitBlocked();
  ASSERT_TRUE(client.ReadUntil([&] { return !client.load().ready(); }));
  ++progress_;  // another layer of the long step is done
  ASSERT_TRUE(client.ReadUntil([&] { return client.load().ready(); }));
  runner_.Open();
  EXPECT_EQ(client.ReadUntilFinished(1).token_ids.size(), 10U);
}

class SlowGatewayTest : public WorkerServiceTest {
 protected:
  SlowGatewayTest() : WorkerServiceTest(/*max_session_tokens=*/2000) {}
};

TEST_F(SlowGatewayTest, AGatewayThatDoesNotReadLosesItsSessionAndOthersGoOn) {
  Serve();
  WorkerClient slow(address_);
  WorkerClient reader(address_);
  // Far more than gRPC's own windows hold.
  for (uint64_t key = 1; key <= 8; ++key) {
    v1::WorkerSessionRequest request;  // written while the session may break already
    *request.mutable_submit() = MakeSubmit(key, 5, 90000);
    request.mutable_submit()->set_num_samples(4);
    slow.Write(request);
  }
  reader.Submit(MakeSubmit(1, 5, 50));
  EXPECT_EQ(reader.ReadUntilFinished(1).token_ids.size(), 50U);
  while (service_.num_sessions() > 1) std::this_thread::yield();
  EXPECT_FALSE(slow.Finish().ok());
  reader.Submit(MakeSubmit(2, 5, 50));
  EXPECT_EQ(reader.ReadUntilFinished(2).token_ids.size(), 50U);
  while (engine_->Stats().running_sequences > 0) std::this_thread::yield();
}

TEST(WorkerServiceOfAFollower, RefusesSessionsWithTheLeadersAddress) {
  MetricsRegistry registry;
  WorkerMetrics metrics(&registry, 2);
  WorkerService::Options options;
  options.refusal = "this is rank 1; requests go to rank 0 at leader:1";
  WorkerService service(options,
                        {[] { return uint64_t{0}; }, [] { return std::vector<v1::WorkerRank>(); },
                         [] { return uint64_t{0}; }},
                        &metrics);
  const auto server = GrpcServer::Start({}, {&service});
  ASSERT_TRUE(server.ok());
  WorkerClient client("127.0.0.1:" + std::to_string((*server)->port()));
  const grpc::Status status = client.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("leader:1"));
}

}  // namespace
}  // namespace caravan
