#include "worker/model/files/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

#include "common/status.h"
#include "tests/worker/model/model_folder_fixture.h"

namespace caravan {
namespace {

constexpr size_t kBytes = 3 * 4096;

class MappedFileTest : public testing::Test {
 protected:
  MappedFileTest() {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    folder_.Write("weights", std::string(kBytes, 'w'));
  }
  std::string path() const { return folder_.File("weights"); }

  TempFolder folder_;
};

TEST_F(MappedFileTest, HasTheBytesOfTheFile) {
  const auto file = MappedFile::Open(path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->text(), std::string(kBytes, 'w'));
}

TEST_F(MappedFileTest, SaysWhichFileWasCutShort) {
  const auto touch_lost_page = [&] {
    ExplainLostPages();
    const auto before = MappedFile::Open(path());
    auto opened = MappedFile::Open(path());
    const MappedFile file = *std::move(opened);
    CARAVAN_CHECK(truncate(path().c_str(), 4096) == 0);
    const volatile std::byte* lost = file.data() + 4096 + 17;
    _exit(*lost == std::byte{'w'} ? 0 : 2);
  };
  EXPECT_EXIT(touch_lost_page(), testing::ExitedWithCode(1),
              "weights changed while it was in use: it can't be read any more at byte 4113 ");
}

TEST_F(MappedFileTest, OtherBusErrorsStayWhatTheyAre) {
  const auto raise_one = [] {
    ExplainLostPages();
    raise(SIGBUS);
    _exit(0);
  };
  EXPECT_EXIT(raise_one(), testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace caravan
