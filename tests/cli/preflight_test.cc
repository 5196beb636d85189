#include "cli/preflight.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(CheckPortIsFree, NamesThePortThatIsInUseAndTheFlag) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  socklen_t length = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  const int port = ntohs(address.sin_port);
  const absl::Status status = CheckPortIsFree("--gateway_port", "127.0.0.1", port);
  EXPECT_THAT(MessageOf(status), HasSubstr(absl::StrCat("port ", port)));
  EXPECT_THAT(MessageOf(status), HasSubstr("--gateway_port"));
  close(fd);
  EXPECT_TRUE(CheckPortIsFree("--gateway_port", "127.0.0.1", port).ok());
}

TEST(CheckPortIsFree, TakesZeroForAFreeOneAndRefusesWhatIsNoPort) {
  EXPECT_TRUE(CheckPortIsFree("--gateway_port", "127.0.0.1", 0).ok());
  EXPECT_FALSE(CheckPortIsFree("--gateway_port", "127.0.0.1", 65536).ok());
  EXPECT_FALSE(CheckPortIsFree("--gateway_port", "127.0.0.1", -1).ok());
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
