#include "common/port_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace caravan {
namespace {

TEST(PortFile, HoldsOneLineAPortAndLeavesNothingElse) {
  const std::string folder = testing::TempDir() + "/port_file_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  ASSERT_TRUE(WritePortFile(folder + "/ports", {{"grpc", 1}, {"metrics", 65535}}).ok());
  ASSERT_TRUE(WritePortFile(folder + "/ports", {{"grpc", 50052}, {"metrics", 9100}}).ok());
  std::ifstream file(folder + "/ports");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "grpc=50052\nmetrics=9100\n");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST(PortFile, SaysWhichPathCannotBeWritten) {
  const absl::Status status = WritePortFile("/nowhere/ports", {{"grpc", 1}});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(status.message()).find("/nowhere/ports"), std::string::npos);
}

}  // namespace
}  // namespace caravan
