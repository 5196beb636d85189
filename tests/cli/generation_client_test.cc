#include "cli/generation_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/cli/fake_gateway.h"

namespace caravan {
namespace {

using ::testing::ElementsAre;
using Writer = FakeGateway::Writer;

bool TakeAll(const v1::GenerateResponse&) { return true; }

TEST(GenerationClient, GoesOnWhereItWasCutOffWithTheSeedInUse) {
  FakeGateway gateway(
      [](int call, const v1::GenerateRequest&, grpc::ServerContext*, Writer* writer) {
        FakeGateway::WriteStarted(writer, 42);
        if (call == 0) {
          FakeGateway::WriteToken(writer, 0, 10);
          FakeGateway::WriteToken(writer, 1, 11);
          return grpc::Status(grpc::StatusCode::UNAVAILABLE, "worker lost");
        }
        FakeGateway::WriteToken(writer, 2, 12);
        FakeGateway::WriteFinished(writer, 3);
        return grpc::Status::OK;
      });
  GenerationClient client(MakeChannel(gateway.address()), {});
  const auto result = client.Generate(v1::GenerateRequest(), TakeAll);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->text, "10 11 12 ");
  EXPECT_THAT(result->token_ids, ElementsAre(10, 11, 12));
  EXPECT_EQ(result->num_resumes, 1);
  const auto requests = gateway.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].resume_token_ids_size(), 0);
  EXPECT_THAT(requests[1].resume_token_ids(), ElementsAre(10, 11));
  EXPECT_EQ(requests[1].sampling().seed(), 42u);
}

TEST(GenerationClient, ResumesAfterTheIdsThatTheCallerGave) {
  FakeGateway gateway(
      [](int call, const v1::GenerateRequest&, grpc::ServerContext*, Writer* writer) {
        FakeGateway::WriteStarted(writer, 1);
        FakeGateway::WriteToken(writer, call + 1, 11 + call);
        return call == 0 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "worker lost")
                         : grpc::Status::OK;
      });
  GenerationClient client(MakeChannel(gateway.address()), {});
  v1::GenerateRequest request;
  request.add_resume_token_ids(10);
  ASSERT_TRUE(client.Generate(request, TakeAll).ok());
  EXPECT_THAT(gateway.requests()[1].resume_token_ids(), ElementsAre(10, 11));
}

TEST(GenerationClient, DoesNotRetryWhatIsNotTheClustersFault) {
  FakeGateway gateway([](int, const v1::GenerateRequest&, grpc::ServerContext*, Writer* writer) {
    FakeGateway::WriteStarted(writer, 1);
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "top_p is 2");
  });
  GenerationClient client(MakeChannel(gateway.address()), {});
  EXPECT_TRUE(absl::IsInvalidArgument(client.Generate({}, TakeAll).status()));
  EXPECT_EQ(gateway.requests().size(), 1u);
}

TEST(GenerationClient, DoesNotRetryWhereNothingAnswers) {
  std::string address;
  {
    const FakeGateway gone([](int, const v1::GenerateRequest&, grpc::ServerContext*, Writer*) {
      return grpc::Status::OK;
    });
    address = gone.address();
  }
  GenerationClient client(MakeChannel(address), {});
  EXPECT_TRUE(absl::IsUnavailable(client.Generate({}, TakeAll).status()));
}

TEST(GenerationClient, GivesUpWhenNothingNewComesInTime) {
  FakeGateway gateway([](int, const v1::GenerateRequest&, grpc::ServerContext*, Writer* writer) {
    FakeGateway::WriteStarted(writer, 1);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "worker lost");
  });
  GenerationClient client(MakeChannel(gateway.address()),
                          {.enabled = true, .give_up_after = absl::ZeroDuration()});
  EXPECT_TRUE(absl::IsUnavailable(client.Generate({}, TakeAll).status()));
  EXPECT_EQ(gateway.requests().size(), 1u);
}

TEST(GenerationClient, CancelsTheCallWhenTheCallerWantsNoMore) {
  FakeGateway gateway(
      [](int, const v1::GenerateRequest&, grpc::ServerContext* context, Writer* writer) {
        FakeGateway::WriteStarted(writer, 1);
        for (int i = 0; !context->IsCancelled(); ++i) FakeGateway::WriteToken(writer, i, i);
        return grpc::Status::CANCELLED;
      });
  GenerationClient client(MakeChannel(gateway.address()), {});
  const auto result =
      client.Generate({}, [](const v1::GenerateResponse& event) { return !event.has_tokens(); });
  EXPECT_TRUE(absl::IsCancelled(result.status())) << result.status();
}

TEST(GenerationClient, CancelsFromAnotherThread) {
  FakeGateway gateway(
      [](int, const v1::GenerateRequest&, grpc::ServerContext* context, Writer* writer) {
        FakeGateway::WriteStarted(writer, 1);
        for (int i = 0; !context->IsCancelled(); ++i) FakeGateway::WriteToken(writer, i, i);
        return grpc::Status::CANCELLED;
      });
  GenerationClient client(MakeChannel(gateway.address()), {});
  std::thread other;
  const auto result = client.Generate({}, [&](const v1::GenerateResponse& event) {
    if (event.has_started()) other = std::thread([&client] { client.Cancel(); });
    return true;
  });
  other.join();
  EXPECT_TRUE(absl::IsCancelled(result.status())) << result.status();
  EXPECT_TRUE(absl::IsCancelled(client.Generate({}, TakeAll).status()));
}

}  // namespace
}  // namespace caravan
