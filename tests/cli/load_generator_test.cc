#include "cli/load_generator.h"

#include <gtest/gtest.h>

#include <atomic>

#include "tests/cli/fake_gateway.h"

namespace caravan {
namespace {

using Writer = FakeGateway::Writer;

LoadOptions SmallLoad() {
  LoadOptions options;
  options.vocabulary_size = 1000;
  options.num_requests = 20;
  options.prompt_tokens = {.least = 2, .most = 5};
  options.output_tokens = {.least = 3, .most = 3};
  return options;
}

void IgnoreProgress(const LoadProgressCounts&) {}

TEST(LoadGenerator, SendsAsManyAtOnceAsTold) {
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  FakeGateway gateway(
      [&](int, const v1::GenerateRequest& request, grpc::ServerContext*, Writer* writer) {
        const int now = ++running;
        int before = most;
        while (before < now && !most.compare_exchange_weak(before, now)) {
        }
        FakeGateway::WriteStarted(writer, 1);
        for (uint32_t i = 0; i < request.stopping().max_tokens(); ++i) {
          FakeGateway::WriteToken(writer, i, i);
        }
        FakeGateway::WriteFinished(writer, request.stopping().max_tokens());
        --running;
        return grpc::Status::OK;
      });
  LoadOptions options = SmallLoad();
  options.concurrency = 3;
  LoadGenerator generator({MakeChannel(gateway.address())}, options);
  LoadProgressCounts last;
  const auto records = generator.Run([&last](const LoadProgressCounts& counts) { last = counts; });
  ASSERT_EQ(records.size(), 20u);
  EXPECT_LE(most, 3);
  EXPECT_EQ(last.finished, 20);
  EXPECT_EQ(last.failed, 0);
  EXPECT_EQ(last.output_tokens, 60);
  for (const RequestRecord& record : records) {
    EXPECT_TRUE(record.status.ok());
    EXPECT_EQ(record.output_tokens, 3);
    EXPECT_EQ(record.inter_token_ms.size(), 2u);
    EXPECT_LE(record.sent_at, record.first_token_at);
    EXPECT_LE(record.first_token_at, record.finished_at);
  }
}

TEST(LoadGenerator, DrawsPromptsInTheirRangeAndRepeatsThemByTheSeed) {
  const auto prompts = [](uint64_t seed) {
    FakeGateway gateway([](int, const v1::GenerateRequest&, grpc::ServerContext*, Writer*) {
      return grpc::Status::OK;
    });
    LoadOptions options = SmallLoad();
    options.concurrency = 1;
    options.seed = seed;
    LoadGenerator generator({MakeChannel(gateway.address())}, options);
    generator.Run(IgnoreProgress);
    std::vector<std::vector<int32_t>> ids;
    for (const v1::GenerateRequest& request : gateway.requests()) {
      const auto& prompt = request.prompt(0).token_ids().ids();
      ids.emplace_back(prompt.begin(), prompt.end());
    }
    return ids;
  };
  const auto first = prompts(5);
  ASSERT_EQ(first.size(), 20u);
  for (const auto& prompt : first) {
    EXPECT_GE(prompt.size(), 2u);
    EXPECT_LE(prompt.size(), 5u);
    for (const int32_t id : prompt) EXPECT_LT(id, 1000);
  }
  EXPECT_EQ(first, prompts(5));
  EXPECT_NE(first, prompts(6));
}

TEST(LoadGenerator, SendsAllRequestsAtARate) {
  FakeGateway gateway([](int, const v1::GenerateRequest&, grpc::ServerContext*, Writer*) {
    return grpc::Status::OK;
  });
  LoadOptions options = SmallLoad();
  options.rate = 2000;
  LoadGenerator generator({MakeChannel(gateway.address())}, options);
  EXPECT_EQ(generator.Run(IgnoreProgress).size(), 20u);
}

TEST(LoadGenerator, RecordsEachFailure) {
  FakeGateway gateway([](int call, const v1::GenerateRequest&, grpc::ServerContext*, Writer*) {
    return call % 2 == 0 ? grpc::Status::OK
                         : grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
  });
  LoadGenerator generator({MakeChannel(gateway.address())}, SmallLoad());
  int failed = 0;
  for (const RequestRecord& record : generator.Run(IgnoreProgress)) {
    failed += absl::IsResourceExhausted(record.status) ? 1 : 0;
  }
  EXPECT_EQ(failed, 10);
}

TEST(LoadGenerator, CancelEndsTheRunningRequestsAndStartsNoMore) {
  FakeGateway gateway(
      [](int, const v1::GenerateRequest&, grpc::ServerContext* context, Writer* writer) {
        FakeGateway::WriteStarted(writer, 1);
        for (int i = 0; !context->IsCancelled(); ++i) FakeGateway::WriteToken(writer, i, i);
        return grpc::Status::CANCELLED;
      });
  LoadOptions options = SmallLoad();
  options.concurrency = 2;
  LoadGenerator generator({MakeChannel(gateway.address())}, options);
  const auto records = generator.Run([&generator](const LoadProgressCounts& counts) {
    if (counts.output_tokens > 0) generator.Cancel();
  });
  EXPECT_EQ(records.size(), 2u);
  for (const RequestRecord& record : records) EXPECT_TRUE(absl::IsCancelled(record.status));
}

}  // namespace
}  // namespace caravan
