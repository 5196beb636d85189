#include "worker/replica/shared_memory_collectives.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "common/status.h"
#include "worker/replica/reduce.h"

namespace caravan {
namespace {

constexpr int64_t kSlotBytes = 256 << 10;
// Above, ranks sum a part each and exchange the parts; below, the second barrier costs more than
// summing everything everywhere.
constexpr int64_t kSumEverywhereBytes = 32 << 10;
constexpr int64_t kAlignment = 64;
constexpr absl::Duration kAbortPoll = absl::Milliseconds(20);
constexpr int kSpins = 2000;  // some 20 µs, about what sleeping and waking costs

// The head of the segment; all zero at first.
struct Control {
  alignas(64) std::atomic<uint32_t> arrived;
  alignas(64) std::atomic<uint32_t> round;  // barriers passed; what sleepers wait on
  alignas(64) std::atomic<uint32_t> sleepers;
  alignas(64) std::atomic<uint32_t> aborted;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

size_t SegmentBytes(int world_size) {
  return sizeof(Control) + 2 * static_cast<size_t>(world_size) * kSlotBytes;
}

uint32_t* FutexWord(std::atomic<uint32_t>& word) { return reinterpret_cast<uint32_t*>(&word); }

// An error of the operating system as a sentence.
absl::Status SystemError(const char* what, const std::string& name, int error) {
  return absl::UnavailableError(absl::StrCat("can't ", what, " shared memory ", name, ": ",
                                             std::strerror(error),
                                             "; --collectives=gloo does without"));
}

// A mapping of the segment.
class Segment {
 public:
  Segment(void* address, size_t bytes) : address_(address), bytes_(bytes) {}
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  ~Segment() { munmap(address_, bytes_); }

  Control& control() const { return *static_cast<Control*>(address_); }
  std::byte* slots() const { return static_cast<std::byte*>(address_) + sizeof(Control); }

  void Abort() const {
    control().aborted.store(1);
    syscall(SYS_futex, FutexWord(control().round), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }

 private:
  void* const address_;
  const size_t bytes_;
};

absl::StatusOr<std::shared_ptr<Segment>> MapSegment(const GroupSpec& spec) {
  const bool creates = spec.rank == 0;
  const size_t bytes = SegmentBytes(spec.world_size);
  const int fd = shm_open(spec.shared_memory_name.c_str(),
                          creates ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, S_IRUSR | S_IWUSR);
  if (fd < 0) return SystemError(creates ? "create" : "open", spec.shared_memory_name, errno);
  int error = creates ? posix_fallocate(fd, 0, static_cast<off_t>(bytes)) : 0;
  struct stat status {};
  if (error == 0 && (fstat(fd, &status) != 0 || static_cast<size_t>(status.st_size) != bytes)) {
    error = EINVAL;
  }
  void* address = MAP_FAILED;
  if (error == 0) {
    address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) error = errno;
  }
  close(fd);
  if (error != 0) {
    if (creates) shm_unlink(spec.shared_memory_name.c_str());
    return SystemError("map", spec.shared_memory_name, error);
  }
  return std::make_shared<Segment>(address, bytes);
}

class SharedMemoryCollectives final : public Collectives {
 public:
  SharedMemoryCollectives(std::shared_ptr<Segment> segment, const GroupSpec& spec)
      : segment_(std::move(segment)),
        control_(segment_->control()),
        rank_(spec.rank),
        world_size_(spec.world_size),
        timeout_(spec.operation_timeout),
        spins_(std::thread::hardware_concurrency() >= static_cast<unsigned>(spec.world_size)
                   ? kSpins
                   : 0),
        sources_(static_cast<size_t>(spec.world_size)) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  void Abort() override { segment_->Abort(); }
  absl::Status status() const override {
    return control_.aborted.load() != 0 ? Lost() : absl::OkStatus();
  }

  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override {
    CARAVAN_CHECK(stream.device() == Device::kCpu && x.row_stride == x.cols);
    const int64_t element = SizeOf(x.dtype);
    const int64_t bytes = x.rows * x.cols * element;
    auto* data = static_cast<std::byte*>(x.data);
    for (int64_t first = 0; first < bytes; first += kSlotBytes) {
      const int64_t size = std::min(kSlotBytes, bytes - first);
      RETURN_IF_ERROR(bytes <= kSumEverywhereBytes ? SumEverywhere(data + first, size, x.dtype)
                                                   : SumParts(data + first, size, x.dtype));
    }
    return absl::OkStatus();
  }

  absl::Status GatherColumns(ConstMatrixView shard, MatrixView full, DeviceStream stream) override {
    CARAVAN_CHECK(stream.device() == Device::kCpu && shard.row_stride == shard.cols);
    const int64_t row_bytes = shard.cols * SizeOf(shard.dtype);
    const int64_t bytes = shard.rows * row_bytes;
    const auto* data = static_cast<const std::byte*>(shard.data);
    for (int64_t first = 0; first < bytes; first += kSlotBytes) {
      const int64_t size = std::min(kSlotBytes, bytes - first);
      RETURN_IF_ERROR(Meet([&] { std::memcpy(Slot(rank_), data + first, size); }));
      for (int r = 0; rank_ == 0 && r < world_size_; ++r) {
        // The slot's bytes lie in rows of row_bytes; in `full` each row goes to its own place.
        for (int64_t at = first; at < first + size;) {
          const int64_t row = at / row_bytes;
          const int64_t column = at % row_bytes;
          const int64_t run = std::min(row_bytes - column, first + size - at);
          std::memcpy(static_cast<std::byte*>(full.row(row)) + r * row_bytes + column,
                      Slot(r) + (at - first), run);
          at += run;
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Broadcast(void* data, size_t bytes, int root) override {
    for (size_t first = 0; first < bytes; first += kSlotBytes) {
      const size_t size = std::min(static_cast<size_t>(kSlotBytes), bytes - first);
      std::byte* part = static_cast<std::byte*>(data) + first;
      RETURN_IF_ERROR(Meet([&] {
        if (rank_ == root) std::memcpy(Slot(root), part, size);
      }));
      if (rank_ != root) std::memcpy(part, Slot(root), size);
    }
    return absl::OkStatus();
  }

 private:
  std::byte* Slot(int rank) const { return SlotOf(rank, rounds_); }
  std::byte* SlotOf(int rank, uint64_t round) const {
    return segment_->slots() + (static_cast<int64_t>(round % 2) * world_size_ + rank) * kSlotBytes;
  }

  // One round: `write` this rank's slot, and wait until every rank has done so.
  template <typename Write>
  absl::Status Meet(Write write) {
    ++rounds_;
    write();
    return Barrier();
  }

  absl::Status SumEverywhere(std::byte* data, int64_t bytes, DType dtype) {
    RETURN_IF_ERROR(Meet([&] { std::memcpy(Slot(rank_), data, bytes); }));
    SumSlots(rounds_, 0, bytes, dtype, data);
    return absl::OkStatus();
  }

  absl::Status SumParts(std::byte* data, int64_t bytes, DType dtype) {
    const int64_t part = (bytes / world_size_ / kAlignment + 1) * kAlignment;
    const auto first = [&](int rank) { return std::min(bytes, rank * part); };
    const auto size = [&](int rank) { return first(rank + 1) - first(rank); };
    RETURN_IF_ERROR(Meet([&] { std::memcpy(Slot(rank_), data, bytes); }));
    RETURN_IF_ERROR(
        Meet([&] { SumSlots(rounds_ - 1, first(rank_), size(rank_), dtype, Slot(rank_)); }));
    for (int r = 0; r < world_size_; ++r) std::memcpy(data + first(r), Slot(r), size(r));
    return absl::OkStatus();
  }

  void SumSlots(uint64_t round, int64_t first, int64_t bytes, DType dtype, std::byte* out) {
    for (int r = 0; r < world_size_; ++r) {
      sources_[static_cast<size_t>(r)] = SlotOf(r, round) + first;
    }
    SumInOrder(sources_, dtype, bytes / SizeOf(dtype), out);
  }

  absl::Status Barrier() {
    const uint32_t round = control_.round.load(std::memory_order_acquire);
    if (control_.aborted.load() != 0) return Lost();
    if (control_.arrived.fetch_add(1) + 1 == static_cast<uint32_t>(world_size_)) {
      control_.arrived.store(0);
      control_.round.store(round + 1);
      if (control_.sleepers.load() > 0) {
        syscall(SYS_futex, FutexWord(control_.round), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
      }
      return absl::OkStatus();
    }
    for (int i = 0; i < spins_; ++i) {
      if (control_.round.load(std::memory_order_acquire) != round) return absl::OkStatus();
      Pause();
    }
    return Sleep(round);
  }

  absl::Status Sleep(uint32_t round) {
    const absl::Time deadline = absl::Now() + timeout_;
    const timespec poll = absl::ToTimespec(kAbortPoll);
    control_.sleepers.fetch_add(1);
    absl::Status status;
    while (control_.round.load() == round) {
      if (control_.aborted.load() != 0) {
        status = Lost();
        break;
      }
      if (absl::Now() > deadline) {
        status = absl::UnavailableError(absl::StrCat("a rank did not come within ",
                                                     absl::ToInt64Seconds(timeout_),
                                                     " s to what all ranks do together"));
        break;
      }
      syscall(SYS_futex, FutexWord(control_.round), FUTEX_WAIT, round, &poll, nullptr, 0);
    }
    control_.sleepers.fetch_sub(1);
    return status;
  }

  static absl::Status Lost() {
    return absl::UnavailableError("the group of ranks was given up: one of them was lost");
  }

  const std::shared_ptr<Segment> segment_;
  Control& control_;
  const int rank_;
  const int world_size_;
  const absl::Duration timeout_;
  const int spins_;
  std::vector<const void*> sources_;
  uint64_t rounds_ = 0;
};

class SharedMemoryBuilder final : public CollectivesBuilder {
 public:
  SharedMemoryBuilder(std::shared_ptr<Segment> segment, const GroupSpec& spec)
      : segment_(std::move(segment)), spec_(spec) {}
  ~SharedMemoryBuilder() override { Unlink(); }

  const std::string& address() const override { return spec_.shared_memory_name; }

  absl::StatusOr<std::unique_ptr<Collectives>> Connect(
      std::span<const std::string> addresses) override {
    for (const std::string& address : addresses) {
      if (address == spec_.shared_memory_name) continue;
      return absl::UnavailableError("a rank mapped another segment of shared memory");
    }
    Unlink();
    if (segment_->control().aborted.load() != 0) {
      return absl::UnavailableError("the group of ranks was given up while it formed");
    }
    return std::make_unique<SharedMemoryCollectives>(segment_, spec_);
  }

  void Abort() override { segment_->Abort(); }

 private:
  void Unlink() {
    if (spec_.rank == 0 && !unlinked_) shm_unlink(spec_.shared_memory_name.c_str());
    unlinked_ = true;
  }

  const std::shared_ptr<Segment> segment_;
  const GroupSpec spec_;
  bool unlinked_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeSharedMemoryBuilder(const GroupSpec& spec) {
  ASSIGN_OR_RETURN(std::shared_ptr<Segment> segment, MapSegment(spec));
  return std::make_unique<SharedMemoryBuilder>(std::move(segment), spec);
}

}  // namespace caravan
