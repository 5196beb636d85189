#include "tests/worker/replica/group_fixture.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "common/status.h"

namespace caravan {
namespace {

// Texts between parent and forked ranks, whole ones at a time.
class Pipe {
 public:
  Pipe() { CARAVAN_CHECK(pipe(fds_) == 0); }
  void Send(const std::string& text) {
    const uint32_t bytes = static_cast<uint32_t>(text.size());
    CARAVAN_CHECK(write(fds_[1], &bytes, sizeof(bytes)) == sizeof(bytes));
    CARAVAN_CHECK(write(fds_[1], text.data(), bytes) == static_cast<ssize_t>(bytes));
  }
  std::string Receive() {
    uint32_t bytes = 0;
    CARAVAN_CHECK(read(fds_[0], &bytes, sizeof(bytes)) == sizeof(bytes));
    std::string text(bytes, '\0');
    CARAVAN_CHECK(read(fds_[0], text.data(), bytes) == static_cast<ssize_t>(bytes));
    return text;
  }

 private:
  int fds_[2];
};

std::unique_ptr<CollectivesBuilder> MakeBuilder(const GroupSpec& spec) {
  auto builder = MakeCollectivesBuilder(spec);
  CARAVAN_CHECK(builder.ok(), builder.status().message());
  return *std::move(builder);
}

std::unique_ptr<Collectives> Connect(CollectivesBuilder& builder,
                                     const std::vector<std::string>& addresses) {
  auto collectives = builder.Connect(addresses);
  CARAVAN_CHECK(collectives.ok(), collectives.status().message());
  return *std::move(collectives);
}

}  // namespace

std::vector<GroupSpec> MakeGroupSpecs(CollectivesKind kind, int world_size) {
  static std::atomic<int> groups{0};
  std::vector<GroupSpec> specs(static_cast<size_t>(world_size));
  const std::string name = absl::StrCat("/caravan-test-", getpid(), "-", ++groups);
  for (int r = 0; r < world_size; ++r) {
    specs[r].kind = kind;
    specs[r].rank = r;
    specs[r].world_size = world_size;
    specs[r].shared_memory_name = name;
    specs[r].host = "127.0.0.1";
  }
  return specs;
}

std::vector<std::unique_ptr<Collectives>> MakeGroup(CollectivesKind kind, int world_size) {
  std::vector<std::unique_ptr<CollectivesBuilder>> builders;
  std::vector<std::string> addresses;
  for (const GroupSpec& spec : MakeGroupSpecs(kind, world_size)) {
    builders.push_back(MakeBuilder(spec));
    addresses.push_back(builders.back()->address());
  }
  std::vector<std::unique_ptr<Collectives>> group(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int r = 0; r < world_size; ++r) {
    threads.emplace_back([&, r] { group[r] = Connect(*builders[r], addresses); });
  }
  for (std::thread& thread : threads) thread.join();
  return group;
}

void RunThreads(CollectivesKind kind, int world_size,
                const std::function<void(Collectives& collectives)>& body) {
  const auto group = MakeGroup(kind, world_size);
  std::vector<std::thread> threads;
  for (const auto& collectives : group) threads.emplace_back([&] { body(*collectives); });
  for (std::thread& thread : threads) thread.join();
}

RankProcesses::RankProcesses(CollectivesKind kind, int world_size,
                             const std::function<int(Collectives& collectives)>& body) {
  const std::vector<GroupSpec> specs = MakeGroupSpecs(kind, world_size);
  // Everything that is forked comes first: rank 0's builder may start threads.
  std::vector<Pipe> go(specs.size());
  std::vector<Pipe> to_rank(specs.size());
  std::vector<Pipe> from_rank(specs.size());
  pids_.resize(specs.size());
  for (int r = 1; r < world_size; ++r) {
    pids_[r] = fork();
    if (pids_[r] != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    go[r].Receive();
    const auto builder = MakeBuilder(specs[r]);
    from_rank[r].Send(builder->address());
    std::vector<std::string> addresses;
    for (int i = 0; i < world_size; ++i) addresses.push_back(to_rank[r].Receive());
    const auto collectives = Connect(*builder, addresses);
    _exit(body(*collectives));
  }
  const auto builder = MakeBuilder(specs[0]);
  std::vector<std::string> addresses = {builder->address()};
  for (int r = 1; r < world_size; ++r) {
    go[r].Send("");
    addresses.push_back(from_rank[r].Receive());
  }
  for (int r = 1; r < world_size; ++r) {
    for (const std::string& address : addresses) to_rank[r].Send(address);
  }
  rank0_ = Connect(*builder, addresses);
}

RankProcesses::~RankProcesses() {
  for (size_t r = 1; r < pids_.size(); ++r) {
    if (pids_[r] == 0) continue;
    Kill(static_cast<int>(r));
    Join(static_cast<int>(r));
  }
}

void RankProcesses::Kill(int rank) { kill(pids_[rank], SIGKILL); }

int RankProcesses::Join(int rank) {
  int status = 0;
  CARAVAN_CHECK(waitpid(pids_[rank], &status, 0) == pids_[rank]);
  pids_[rank] = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace caravan
