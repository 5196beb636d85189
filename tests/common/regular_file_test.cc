#include "common/regular_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

using testing::HasSubstr;

class RegularFileTest : public testing::Test {
 protected:
  RegularFileTest() : path_(absl::StrCat(testing::TempDir(), "/regular_file_", getpid())) {
    std::filesystem::remove_all(path_);
  }
  ~RegularFileTest() override { std::filesystem::remove_all(path_); }

  void ExpectNotRegular() {
    for (const absl::Status& status :
         {OpenRegularFile(path_).status(), ReadRegularFile(path_, 10).status()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_EQ(status.message(), absl::StrCat(path_, " is not a regular file"));
    }
  }

  const std::string path_;
};

TEST_F(RegularFileTest, HasTheBytesOfTheFile) {
  const std::string bytes = std::string(100000, 'x') + '\0' + "y";
  std::ofstream(path_, std::ios::binary) << bytes;
  EXPECT_EQ(*ReadRegularFile(path_, 100002), bytes);
  const absl::Status status = ReadRegularFile(path_, 100001).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("larger than 100001 bytes"));
  std::filesystem::resize_file(path_, 0);
  EXPECT_EQ(*ReadRegularFile(path_, 0), "");
}

TEST_F(RegularFileTest, SaysThatThereIsNone) {
  const absl::Status status = ReadRegularFile(path_, 10).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(status.message(), absl::StrCat("can't open ", path_, ": No such file or directory"));
}

// A program that was given one hung at its start, without a word.
TEST_F(RegularFileTest, RefusesAFifoAtOnce) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  ExpectNotRegular();
}

TEST_F(RegularFileTest, RefusesAFolder) {
  std::filesystem::create_directory(path_);
  ExpectNotRegular();
}

TEST_F(RegularFileTest, RefusesASocket) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path_.size(), sizeof(address.sun_path));
  std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ExpectNotRegular();
  close(fd);
}

TEST_F(RegularFileTest, PathExistsTellsWhatLiesThere) {
  EXPECT_EQ(*PathExists(path_), false);
  EXPECT_EQ(*PathExists(path_ + "/below"), false);
  std::ofstream(path_) << "x";
  EXPECT_EQ(*PathExists(path_), true);
  EXPECT_EQ(*PathExists(path_ + "/below"), false);  // not a folder
  EXPECT_EQ(*PathExists("/"), true);
  const absl::Status status = PathExists("/" + std::string(5000, 'x')).status();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("File name too long"));
}

// One took it for a file that is not there, and a model was served without it.
TEST_F(RegularFileTest, ALinkThatCanNotBeFollowedIsNotAbsent) {
  const auto expect = [this](const std::string& message) {
    for (const absl::Status& status :
         {PathExists(path_).status(), OpenRegularFile(path_).status()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_EQ(status.message(), absl::StrCat(path_, " is a symbolic link to ", message));
    }
  };
  std::filesystem::create_symlink("nowhere/to/be_seen", path_);
  expect("nowhere/to/be_seen, which leads nowhere");
  std::filesystem::remove(path_);
  std::filesystem::create_symlink(path_, path_);
  expect(absl::StrCat(path_, ", which leads in a circle"));
  std::filesystem::remove(path_);
  std::filesystem::create_symlink("/", path_);
  EXPECT_EQ(*PathExists(path_), true);
}

TEST_F(RegularFileTest, AFileCanBeWrittenOrTheReasonIsSaid) {
  EXPECT_TRUE(CheckWritableFile(path_).ok());
  std::ofstream(path_) << "x";
  EXPECT_TRUE(CheckWritableFile(path_).ok());
  EXPECT_EQ(CheckWritableFile(path_ + "/below").message(),
            absl::StrCat("can't make a file in ", path_, "/: Not a directory"));
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(CheckWritableFile(path_).message(), absl::StrCat(path_, " is not a regular file"));
}

}  // namespace
}  // namespace caravan
