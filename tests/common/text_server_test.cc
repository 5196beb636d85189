#include "common/text_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/status.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~Client() { close(fd_); }

  void Send(const std::string& text) {
    EXPECT_EQ(send(fd_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  // Until the server hangs up.
  std::string Read() {
    std::string text;
    char bytes[4096];
    for (ssize_t n = 0; (n = recv(fd_, bytes, sizeof(bytes), 0)) > 0;) {
      text.append(bytes, static_cast<size_t>(n));
    }
    return text;
  }

 private:
  const int fd_;
};

std::unique_ptr<TextServer> StartServer(std::string text) {
  auto server =
      TextServer::Start("127.0.0.1:0", {"/metrics", "text/plain", [text] { return text; }});
  CARAVAN_CHECK(server.ok(), std::string(server.status().message()));
  return *std::move(server);
}

TEST(TextServer, WritesItsPage) {
  const auto server = StartServer("up 1\n");
  for (const char* request :
       {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics?a=b HTTP/1.1\r\n\r\n"}) {
    Client client(server->port());
    client.Send(request);
    EXPECT_THAT(client.Read(),
                AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Length: 5\r\n"),
                      EndsWith("\r\n\r\nup 1\n")));
  }
}

TEST(TextServer, TakesARequestInParts) {
  const auto server = StartServer("up 1\n");
  Client client(server->port());
  for (const char byte : std::string("GET /metrics HTTP/1.1\r\n\r\n")) {
    client.Send(std::string(1, byte));
  }
  EXPECT_THAT(client.Read(), EndsWith("up 1\n"));
}

TEST(TextServer, WritesAPageThatIsLargerThanTheSocketsBuffers) {
  const std::string text(32 << 20, 'x');
  const auto server = StartServer(text);
  Client client(server->port());
  client.Send("GET /metrics HTTP/1.1\r\n\r\n");
  const std::string answer = client.Read();
  ASSERT_GT(answer.size(), text.size());
  EXPECT_EQ(answer.compare(answer.size() - text.size(), text.size(), text), 0);
}

TEST(TextServer, HasNothingElse) {
  const auto server = StartServer("up 1\n");
  for (const char* request : {"GET / HTTP/1.1\r\n\r\n", "GET /metricsandmore HTTP/1.1\r\n\r\n",
                              "POST /metrics HTTP/1.1\r\n\r\n", "nonsense\r\n\r\n"}) {
    Client client(server->port());
    client.Send(request);
    EXPECT_THAT(client.Read(), StartsWith("HTTP/1.1 404 ")) << request;
  }
}

TEST(TextServer, HangsUpOnARequestWithoutEndAndServesTheNext) {
  const auto server = StartServer("up 1\n");
  Client endless(server->port());
  endless.Send(std::string(10000, 'x'));
  endless.Read();  // ends, perhaps by a reset
  Client next(server->port());
  next.Send("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(next.Read(), EndsWith("up 1\n"));
}

TEST(TextServer, EndsAtOnceWhileAClientSaysNothing) {
  auto server = StartServer("up 1\n");
  Client silent(server->port());
  silent.Send("GET ");
  server = nullptr;  // within the test's time, and not after the client's
  EXPECT_EQ(silent.Read(), "");
}

TEST(TextServer, NamesTheAddressThatCanNotBeHad) {
  const auto server = StartServer("");
  for (const std::string& address : {absl::StrCat("127.0.0.1:", server->port()),
                                     std::string("nowhere"), std::string("no host.:1")}) {
    const auto second = TextServer::Start(address, {"/metrics", "text/plain", [] { return ""; }});
    EXPECT_TRUE(absl::IsUnavailable(second.status())) << address;
    EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
  }
}

}  // namespace
}  // namespace caravan
