// The worker program on a host without a GPU that it can use: a sentence and an end, never a hang.
// The driver is a stand-in, so that every host can be such a one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/device/cuda_stream.h"
#include "tests/worker/worker_processes.h"

namespace caravan {
namespace {

using ::testing::HasSubstr;

struct Driver {
  const char* name;
  const char* version;  // null: none that can be loaded
  const char* init;     // what its initialization answers
  const char* reason;   // what the worker says
};

class UnusableDriver : public ::testing::TestWithParam<Driver> {
 protected:
  UnusableDriver() {
    char folder[] = "/tmp/caravan-driver-test-XXXXXX";
    CARAVAN_CHECK(mkdtemp(folder) != nullptr);
    folder_ = folder;
    if (GetParam().version == nullptr) {
      std::ofstream(folder_ + "/libcuda.so.1");  // no library, and the loader looks no further
    } else {
      std::filesystem::create_symlink(CARAVAN_FAKE_CUDA_DRIVER, folder_ + "/libcuda.so.1");
    }
  }
  ~UnusableDriver() override { std::filesystem::remove_all(folder_); }

  WorkerProcess Start(const std::string& device) const {
    std::vector<std::string> environment = {"LD_LIBRARY_PATH=" + folder_};
    if (const char* old = std::getenv("LD_LIBRARY_PATH")) environment[0] += absl::StrCat(":", old);
    if (GetParam().version != nullptr) {
      environment.push_back(absl::StrCat("CARAVAN_FAKE_CUDA_VERSION=", GetParam().version));
      environment.push_back(absl::StrCat("CARAVAN_FAKE_CUDA_INIT=", GetParam().init));
    }
    return WorkerProcess(folder_, "worker",
                         {"--model=" CARAVAN_SOURCE_DIR "/models/demo", "--device=" + device,
                          "--kv_cache_bytes=1048576", "--listen_address=127.0.0.1:0"},
                         environment);
  }

  std::string folder_;
};

TEST_P(UnusableDriver, EndsAWorkerThatIsToUseItWithTheReason) {
  if (BuiltArchitectures().empty()) GTEST_SKIP() << "a build without CUDA looks for no driver";
  WorkerProcess worker = Start("cuda");
  EXPECT_EQ(worker.Join(), 1);
  EXPECT_THAT(worker.Log(), HasSubstr("--device=cuda can't be had"));
  EXPECT_THAT(worker.Log(), HasSubstr(GetParam().reason));
}

TEST_P(UnusableDriver, IsPassedOverWhereTheCpuWillDo) {
  if (BuiltArchitectures().empty()) GTEST_SKIP() << "a build without CUDA looks for no driver";
  WorkerProcess worker = Start("auto");
  worker.Address();  // once it listens
  EXPECT_THAT(worker.Log(), HasSubstr(GetParam().reason));
  // A thread of the driver that took the signal would end the process by it, without a drain.
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.Join(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Drivers, UnusableDriver,
    ::testing::Values(Driver{"None", nullptr, nullptr, "there is no NVIDIA driver"},
                      Driver{"TooOld", "11040", "0", "the NVIDIA driver is for CUDA 11.4"},
                      Driver{"WithoutAGpu", "99000", "100", "no GPU is visible"},
                      Driver{"NotReady", "99000", "802", "the GPUs can't be listed"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace caravan
