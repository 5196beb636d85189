#include "gateway/triton/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// No file grows beyond so many bytes while it lives, as on a disk that is full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_ = {};
};

class TraceWriterTest : public testing::Test {
 protected:
  TraceWriterTest() : folder_(absl::StrCat(testing::TempDir(), "/traces_", getpid())) {
    std::filesystem::create_directory(folder_);
  }
  ~TraceWriterTest() override { std::filesystem::remove_all(folder_); }

  RequestTrace Trace(const std::string& request_id, uint32_t log_frequency = 0) const {
    RequestTrace trace;
    trace.id = 7;
    trace.request_id = request_id;
    trace.settings.file = folder_ + "/trace";
    trace.settings.timestamps = true;
    trace.settings.log_frequency = log_frequency;
    trace.Stamp("REQUEST_START");
    trace.Stamp("REQUEST_END");
    return trace;
  }
  // The request ids of a trace file, which must be a whole array.
  std::vector<std::string> RequestIds(const std::string& name) const {
    std::ifstream file(folder_ + "/" + name);
    const auto traces = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(traces.is_array()) << name;
    std::vector<std::string> ids;
    for (const auto& object : traces) {
      if (object.contains("request_id")) ids.push_back(object["request_id"]);
    }
    return ids;
  }

  const std::string folder_;
};

TEST_F(TraceWriterTest, WritesOneArrayOrOneForSoManyRequests) {
  {
    TraceWriter writer;
    for (const char* id : {"a", "b", "c"}) writer.Write(Trace(id));
  }
  EXPECT_THAT(RequestIds("trace"), ElementsAre("a", "b", "c"));
  {
    TraceWriter writer;
    for (const char* id : {"a", "b", "c"}) writer.Write(Trace(id, 2));
  }
  EXPECT_THAT(RequestIds("trace.0"), ElementsAre("a", "b"));
  EXPECT_THAT(RequestIds("trace.1"), ElementsAre("c"));
}

// The file used to end in the middle of an object, with a line in the log for each trace.
TEST_F(TraceWriterTest, AFullDiskLosesWholeTracesAndIsToldOnce) {
  testing::internal::CaptureStderr();
  {
    TraceWriter writer;
    writer.Write(Trace("a"));
    const auto bytes = std::filesystem::file_size(folder_ + "/trace");
    {
      const FullDisk full(bytes + 100);
      for (const char* id : {"lost", "lost", "lost"}) writer.Write(Trace(id));
    }
    writer.Write(Trace("b"));
    const FullDisk full(std::filesystem::file_size(folder_ + "/trace") + 5);
    writer.Write(Trace("lost"));
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(RequestIds("trace"), ElementsAre("a", "b"));
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("trace not written", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 2U) << log;
  EXPECT_THAT(log, HasSubstr("File too large"));
  EXPECT_THAT(log, HasSubstr("lost=3"));
}

TEST_F(TraceWriterTest, AFileThatCanNotBeMadeIsToldOnceAndTriedAgain) {
  TraceWriter writer;
  std::filesystem::remove(folder_);
  testing::internal::CaptureStderr();
  for (const char* id : {"lost", "lost"}) writer.Write(Trace(id, 1));
  std::filesystem::create_directory(folder_);
  writer.Write(Trace("a", 1));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(log.find("trace not written"), log.rfind("trace not written")) << log;
  EXPECT_THAT(log, HasSubstr("No such file or directory"));
  EXPECT_THAT(RequestIds("trace.0"), ElementsAre("a"));
}

// To open one for writing waits for a reader, and the loop would wait with it.
TEST_F(TraceWriterTest, AFifoInPlaceOfAFileIsNotWaitedFor) {
  TraceWriter writer;
  ASSERT_EQ(mkfifo((folder_ + "/trace.0").c_str(), 0600), 0);
  testing::internal::CaptureStderr();
  writer.Write(Trace("lost", 1));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("trace.0 is not a regular file"));
}

}  // namespace
}  // namespace caravan
