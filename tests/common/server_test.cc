#include "common/server.h"

#include <gmock/gmock.h>
#include <grpc/health/v1/health.grpc.pb.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "common/metrics.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

using grpc::health::v1::HealthCheckResponse;

HealthCheckResponse::ServingStatus Health(int port) {
  const auto stub =
      grpc::health::v1::Health::NewStub(MakeChannel(absl::StrCat("127.0.0.1:", port)));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.status();
}

TEST(GrpcServer, IsNotServingUntilToldSo) {
  auto server = GrpcServer::Start({}, {});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(Health((*server)->port()), HealthCheckResponse::NOT_SERVING);
  (*server)->SetServing(true);
  EXPECT_EQ(Health((*server)->port()), HealthCheckResponse::SERVING);
}

TEST(ToGrpcStatus, LeavesOutTheMiddleOfALongMessageBetweenCharacters) {
  const std::string short_message(kMaxStatusMessageBytes, 'a');
  EXPECT_EQ(ToGrpcStatus(absl::NotFoundError(short_message)).error_message(), short_message);
  for (const char* character : {"a", "é", "中", "😀"}) {
    for (size_t shift = 0; shift < 4; ++shift) {
      std::string text(shift, '.');
      while (text.size() < 100000) text += character;
      const auto status = ToGrpcStatus(absl::InvalidArgumentError("begin " + text + " end"));
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      const std::string message = status.error_message();
      EXPECT_LE(message.size(), kMaxStatusMessageBytes);
      EXPECT_GE(message.size(), kMaxStatusMessageBytes - 8);
      EXPECT_EQ(FindInvalidUtf8(message), std::string::npos) << character << " " << shift;
      EXPECT_THAT(message, testing::AllOf(testing::StartsWith("begin "), testing::HasSubstr(" … "),
                                          testing::EndsWith(" end")));
    }
  }
}

TEST(GrpcServer, NamesTheAddressThatIsInUse) {
  auto first = GrpcServer::Start({}, {});
  ASSERT_TRUE(first.ok());
  const std::string address = absl::StrCat("127.0.0.1:", (*first)->port());
  const auto second = GrpcServer::Start({.listen_address = address}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(address));
}

TEST(MetricsServer, NamesTheAddressThatIsInUse) {
  const MetricsRegistry metrics;
  auto first = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = absl::StrCat("127.0.0.1:", (*first)->port());
  const auto second = MetricsServer::Start(address, metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), testing::HasSubstr(address));
}

// A connection to a port of this host that is closed with the object. Reads wait for 10 s at most.
class LocalConnection {
 public:
  explicit LocalConnection(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit = {10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    EXPECT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  LocalConnection(const LocalConnection&) = delete;
  LocalConnection& operator=(const LocalConnection&) = delete;
  ~LocalConnection() { close(fd_); }

  // The first bytes that come back; empty when none come in time.
  std::string Ask(const std::string& request) const {
    EXPECT_EQ(write(fd_, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    std::string answer(4096, '\0');
    const ssize_t size = read(fd_, answer.data(), answer.size());
    answer.resize(size < 0 ? 0 : static_cast<size_t>(size));
    return answer;
  }

 private:
  int fd_;
};

// With one thread and civetweb's own 30 s each of these would keep the page away for as long.
TEST(MetricsServer, AnswersBesideConnectionsThatAskNothing) {
  const MetricsRegistry metrics;
  const auto server = MetricsServer::Start("127.0.0.1:0", metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  const LocalConnection silent[] = {
      LocalConnection((*server)->port()), LocalConnection((*server)->port()),
      LocalConnection((*server)->port()), LocalConnection((*server)->port()),
      LocalConnection((*server)->port())};
  const LocalConnection asking((*server)->port());
  EXPECT_THAT(asking.Ask("GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"),
              testing::StartsWith("HTTP/1.1 200"));
}

TEST(Status, KeepsItsCodeAndSentenceThroughGrpc) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "what to do");
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  }
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  ASSIGN_OR_RETURN(const int half, Half(x));
  return Half(half);
}

TEST(Status, MacrosReturnTheFirstError) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_EQ(Quarter(3).status().message(), "odd");
}

TEST(StatusDeathTest, CheckPrintsTheConditionAndTheValues) {
  const int blocks = 3;
  EXPECT_DEATH(CARAVAN_CHECK(blocks == 4, "blocks ", blocks), "blocks == 4 blocks 3");
}

}  // namespace
}  // namespace caravan
