#include "common/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using ::testing::HasSubstr;

TEST(Flags, AddressesOfServersHaveAHostAndAPort) {
  for (const char* address : {"localhost:8001", "127.0.0.1:1", "a-b.c_d:65535", "[::1]:8001"}) {
    EXPECT_TRUE(CheckAddress("address", address).ok()) << address;
    EXPECT_TRUE(CheckListenAddress("address", address).ok()) << address;
  }
  for (const char* address : {"", "localhost", ":8001", "localhost:", "localhost:99999",
                              "localhost:-1", "localhost:x", "::1:8001", "[::1:8001", "[::1]",
                              "[]:8001", "http://localhost:8001", "a b:8001", "a\n:8001"}) {
    const absl::Status status = CheckAddress("address", address);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(std::string("--address is '") + address + "'; it must be host:port"));
    EXPECT_FALSE(CheckListenAddress("address", address).ok()) << address;
  }
}

TEST(Flags, OnlyWhoListensMayLeaveThePortOpen) {
  EXPECT_TRUE(CheckListenAddress("listen_address", "0.0.0.0:0").ok());
  EXPECT_THAT(std::string(CheckAddress("replicas", "0.0.0.0:0").message()),
              HasSubstr("a port from 1 to 65535"));
}

}  // namespace
}  // namespace caravan
