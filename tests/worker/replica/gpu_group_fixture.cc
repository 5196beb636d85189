#ifdef CARAVAN_HAS_CUDA
#include "tests/worker/replica/gpu_group_fixture.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"

namespace caravan {
namespace {

// "kind world_size rank gpu read_fd write_fd" of a rank process.
constexpr char kRankVariable[] = "CARAVAN_TEST_GPU_RANK";

// Streams of ranks on one GPU must not share a hardware queue. Before the first call of CUDA.
[[maybe_unused]] const int kPrepared = [] {
  PrepareEnvironmentForCollectives();
  return setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}();

void Send(int fd, const std::string& text) {
  const auto bytes = static_cast<uint32_t>(text.size());
  CARAVAN_CHECK(write(fd, &bytes, sizeof(bytes)) == sizeof(bytes));
  CARAVAN_CHECK(write(fd, text.data(), bytes) == static_cast<ssize_t>(bytes));
}

std::string Receive(int fd) {
  uint32_t bytes = 0;
  CARAVAN_CHECK(read(fd, &bytes, sizeof(bytes)) == sizeof(bytes), "the other rank has ended");
  std::string text(bytes, '\0');
  for (size_t at = 0; at < bytes;) {
    const ssize_t got = read(fd, text.data() + at, bytes - at);
    CARAVAN_CHECK(got > 0, "the other rank has ended");
    at += static_cast<size_t>(got);
  }
  return text;
}

std::unique_ptr<CollectivesBuilder> MakeBuilder(const GroupSpec& spec) {
  auto builder = MakeCollectivesBuilder(spec);
  CARAVAN_CHECK(builder.ok(), builder.status().message());
  return *std::move(builder);
}

std::unique_ptr<Collectives> Connect(CollectivesBuilder& builder,
                                     const std::vector<std::string>& addresses) {
  auto ranks = builder.Connect(addresses);
  CARAVAN_CHECK(ranks.ok(), ranks.status().message());
  return *std::move(ranks);
}

std::vector<CudaDevice> Gpus(std::string* why) {
  static std::string problem;
  static const std::vector<CudaDevice> gpus = FindCudaDevices(&problem);
  *why = problem;
  return gpus;
}

}  // namespace

bool HasGpus(int count, std::string* why) {
  const size_t gpus = Gpus(why).size();
  if (gpus > 0) *why = absl::StrCat("there are ", gpus, " GPUs, this needs ", count);
  return gpus >= static_cast<size_t>(count);
}

std::vector<GroupSpec> MakeGpuSpecs(CollectivesKind kind, int world_size) {
  std::string why;
  const auto gpus = static_cast<int>(Gpus(&why).size());
  CARAVAN_CHECK(gpus > 0, why);
  std::vector<GroupSpec> specs(static_cast<size_t>(world_size));
  for (int r = 0; r < world_size; ++r) {
    specs[r].kind = kind;
    specs[r].rank = r;
    specs[r].world_size = world_size;
    specs[r].gpu = r % gpus;
    specs[r].host = "127.0.0.1";
  }
  return specs;
}

GpuGroup::GpuGroup(CollectivesKind kind, int world_size, bool batch_invariant)
    : meeting_(world_size), ranks_(static_cast<size_t>(world_size)) {
  std::vector<std::unique_ptr<CollectivesBuilder>> builders;
  std::vector<std::string> addresses;
  for (const GroupSpec& spec : MakeGpuSpecs(kind, world_size)) {
    std::string problem;
    streams_.push_back(
        CudaStream::Create({.device = spec.gpu, .batch_invariant = batch_invariant}, &problem));
    CARAVAN_CHECK(streams_.back() != nullptr, problem);
    builders.push_back(MakeBuilder(spec));
    addresses.push_back(builders.back()->address());
  }
  std::vector<std::thread> threads;
  for (int r = 0; r < world_size; ++r) {
    threads.emplace_back([&, r] { ranks_[r] = Connect(*builders[r], addresses); });
  }
  for (std::thread& thread : threads) thread.join();
}

GpuGroup::~GpuGroup() {
  // All of them first: NCCL frees the communicators of one process together.
  for (const auto& ranks : ranks_) ranks->Abort();
}

void GpuGroup::Run(const std::function<void(Collectives& ranks, CudaStream& stream)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < world_size(); ++r) {
    threads.emplace_back([&, r] {
      streams_[r]->MakeCurrent();
      body(*ranks_[r], *streams_[r]);
      streams_[r]->Synchronize();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

GpuRankProcesses::GpuRankProcesses(CollectivesKind kind, int world_size, const std::string& body) {
  const std::vector<GroupSpec> specs = MakeGpuSpecs(kind, world_size);
  const auto builder = MakeBuilder(specs[0]);
  std::vector<std::string> addresses = {builder->address()};
  std::vector<int> to_rank = {-1};
  pids_.resize(specs.size());
  for (int r = 1; r < world_size; ++r) {
    int down[2];
    int up[2];
    CARAVAN_CHECK(pipe(down) == 0 && pipe(up) == 0);
    const std::string variable = absl::StrCat(NameOf(kind), " ", world_size, " ", r, " ",
                                              specs[r].gpu, " ", down[0], " ", up[1]);
    setenv(kRankVariable, variable.c_str(), 1);
    const std::string filter = "--gtest_filter=" + body;
    std::string name = "/proc/self/exe";
    std::vector<char*> arguments = {name.data(), const_cast<char*>(filter.c_str()), nullptr};
    CARAVAN_CHECK(
        posix_spawn(&pids_[r], name.c_str(), nullptr, nullptr, arguments.data(), environ) == 0);
    unsetenv(kRankVariable);
    close(down[0]);
    close(up[1]);
    to_rank.push_back(down[1]);
    addresses.push_back(Receive(up[0]));
    close(up[0]);
  }
  for (int r = 1; r < world_size; ++r) {
    for (const std::string& address : addresses) Send(to_rank[r], address);
    close(to_rank[r]);
  }
  rank0_ = Connect(*builder, addresses);
}

GpuRankProcesses::~GpuRankProcesses() {
  if (rank0_ != nullptr) rank0_->Abort();
  for (size_t r = 1; r < pids_.size(); ++r) {
    if (pids_[r] == 0) continue;
    Kill(static_cast<int>(r));
    Join(static_cast<int>(r));
  }
}

void GpuRankProcesses::Kill(int rank) { kill(pids_[rank], SIGKILL); }

int GpuRankProcesses::Join(int rank) {
  int status = 0;
  CARAVAN_CHECK(waitpid(pids_[rank], &status, 0) == pids_[rank]);
  pids_[rank] = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::unique_ptr<Collectives> ConnectAsRankProcess(int* gpu) {
  const char* variable = getenv(kRankVariable);
  if (variable == nullptr) return nullptr;
  const std::vector<std::string> fields = absl::StrSplit(variable, ' ');
  CARAVAN_CHECK(fields.size() == 6, variable);
  std::vector<int> numbers;
  for (size_t i = 1; i < fields.size(); ++i) {
    CARAVAN_CHECK(absl::SimpleAtoi(fields[i], &numbers.emplace_back()), variable);
  }
  GroupSpec spec;
  spec.kind = *CollectivesKindNamed(fields[0]);
  spec.world_size = numbers[0];
  spec.rank = numbers[1];
  spec.gpu = *gpu = numbers[2];
  spec.host = "127.0.0.1";
  const auto builder = MakeBuilder(spec);
  Send(numbers[4], builder->address());
  std::vector<std::string> addresses;
  for (int r = 0; r < spec.world_size; ++r) addresses.push_back(Receive(numbers[3]));
  return Connect(*builder, addresses);
}

}  // namespace caravan
#endif
