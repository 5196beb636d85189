#include "cli/preflight.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

class PortTest : public testing::Test {
 protected:
  PortTest() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CARAVAN_CHECK(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    CARAVAN_CHECK(listen(fd_, 1) == 0);
    socklen_t length = sizeof(address);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
  }
  ~PortTest() override { StopListening(); }

  void StopListening() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  int fd_;
  int port_;
};

TEST_F(PortTest, NamesThePortThatIsInUseAndTheFlag) {
  for (const char* host : {"127.0.0.1", "localhost", "0.0.0.0"}) {
    const PortToCheck check = {"--gateway_port", host, port_};
    EXPECT_THAT(MessageOf(CheckPortsAreFree({{"--http_port", host, 0}, check})),
                AllOf(HasSubstr(absl::StrCat("port ", port_, " on ", host, " is in use")),
                      HasSubstr("--gateway_port")));
  }
  StopListening();
  EXPECT_TRUE(CheckPortsAreFree({{"--gateway_port", "127.0.0.1", port_}}).ok());
}

// The gateway used to find it, and to name flags of its own.
TEST_F(PortTest, NamesTheFlagsThatAreEqual) {
  StopListening();
  EXPECT_EQ(MessageOf(CheckPortsAreFree({{"--gateway_port", "127.0.0.1", port_},
                                         {"--metrics_port", "127.0.0.1", 0},
                                         {"--http_port", "127.0.0.1", port_}})),
            absl::StrCat("--http_port is ", port_,
                         ", and so is --gateway_port; each needs its own "
                         "(0 takes a free one)"));
}

TEST_F(PortTest, TakesZeroForAFreeOneAndRefusesWhatIsNoPort) {
  const auto check = [](int port) {
    return CheckPortsAreFree({{"--gateway_port", "127.0.0.1", port}});
  };
  EXPECT_TRUE(check(0).ok());
  EXPECT_FALSE(check(65536).ok());
  EXPECT_FALSE(check(-1).ok());
}

TEST(CheckHost, TakesAnAddressOrANameOfThisHostAlone) {
  EXPECT_TRUE(CheckHost("127.0.0.1").ok());
  EXPECT_TRUE(CheckHost("0.0.0.0").ok());
  EXPECT_TRUE(CheckHost("localhost").ok());
  EXPECT_THAT(MessageOf(CheckHost("192.0.2.1")),  // TEST-NET-1, nobody's
              AllOf(HasSubstr("can't listen on 192.0.2.1: Cannot assign"), HasSubstr("--host")));
  EXPECT_THAT(MessageOf(CheckHost("no.such.host.invalid")),
              HasSubstr("--host is 'no.such.host.invalid', which is no address"));
  EXPECT_THAT(MessageOf(CheckHost("::")), HasSubstr("in brackets: [::]"));
}

TEST(CheckModelFolder, SaysWhatIsMissing) {
  EXPECT_THAT(MessageOf(CheckModelFolder("")), HasSubstr("--model"));
  EXPECT_THAT(MessageOf(CheckModelFolder("/no/such")), HasSubstr("no model folder /no/such"));
  EXPECT_THAT(MessageOf(CheckModelFolder("/etc/passwd")), HasSubstr("is a file"));
  EXPECT_THAT(MessageOf(CheckModelFolder("/etc")), HasSubstr("no config.json"));
}

TEST(CheckPrograms, NamesTheProgramThatIsMissing) {
  EXPECT_THAT(MessageOf(CheckPrograms("/etc")), HasSubstr("/etc/caravan_gateway is missing"));
}

}  // namespace
}  // namespace caravan
