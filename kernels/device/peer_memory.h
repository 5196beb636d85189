// Memory on several GPUs of one host that all of them write to: what the collectives of
// kernels/peer_all_reduce.h work on. Plain C++: no CUDA header leaks from here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device/device_memory.h"

namespace caravan {

inline constexpr int kMostPeers = 8;

// On the device: which region and which rounds of the ring a launch uses, and whether the group was
// given up.
struct PeerCounters {
  unsigned long long arrivals;       // of blocks, over all launches that use the regions
  unsigned long long ring_arrivals;  // the same for the ring
  // On the GPU's clock, ns: nobody reads the abort word before then.
  unsigned long long next_look;
  unsigned int aborted;
};

// What a kernel gets. Each rank owns two regions, used by turns, and a ring, in which the others
// put data for it. A byte that holds none is 0xff, which no data is.
struct PeerView {
  int rank = 0;
  int world_size = 1;
  int max_blocks = 1;  // of up to 1024 threads that run at once on the GPU of every rank
  // Ranks on one GPU (tests do so): what would start early could take the place of a peer's kernel.
  bool shares_gpu = false;
  int64_t region_bytes = 0;                         // of one region; a multiple of 16 · kMostPeers
  int64_t ring_bytes = 0;                           // of the ring, which follows the regions
  std::array<std::byte*, kMostPeers> regions = {};  // of each rank, as mapped here
  PeerCounters* counters = nullptr;                 // this rank's own
  const unsigned int* abort_word = nullptr;         // in host memory; not 0 once given up
};

// What the other ranks need to know of one; its bytes travel as they are between equal builds.
struct PeerEndpoint {
  uint64_t process = 0;  // random, one a process life
  uint64_t address = 0;  // of the regions in that process
  int64_t region_bytes = 0;
  int64_t ring_bytes = 0;
  int32_t device = 0;  // in that process
  int32_t num_multiprocessors = 0;
  std::array<char, 32> pci_bus_id = {};
  std::array<char, 64> ipc_handle = {};
};

// This rank's regions and ring and the maps of the others'. Made and mapped by one thread, whose
// current device becomes `device`. The regions of a group that was given up are of no more use.
class PeerMemory {
 public:
  // Null with the reason in `*problem`. The regions can be written to by others from then on.
  // ring_bytes: a multiple of 16, 0 where nothing uses the ring (kernels/peer_all_reduce.h).
  static std::unique_ptr<PeerMemory> Create(int device, int64_t region_bytes, int64_t ring_bytes,
                                            std::string* problem);
  // Waits until all that runs on the device has ended, so Abort first where peers may be lost.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  const PeerEndpoint& endpoint() const { return endpoint_; }

  // Once: maps the regions of all ranks, this one's own at [rank] among them. False with the
  // reason in `*problem` where one can't be reached: no peer access, no CUDA IPC.
  bool Map(int rank, std::span<const PeerEndpoint> endpoints, std::string* problem);
  const PeerView& view() const { return view_; }

  // Any thread, any number of times, no CUDA call: kernels that wait for a peer end within
  // milliseconds without a result, and so do all later ones.
  void Abort();
  bool aborted() const;

 private:
  PeerMemory() = default;
  std::byte* Open(const PeerEndpoint& endpoint, std::string* problem);

  int device_ = 0;
  std::byte* regions_ = nullptr;
  DeviceMemory counters_;
  PinnedMemory abort_word_;
  std::vector<void*> opened_;  // through CUDA IPC
  PeerEndpoint endpoint_;
  PeerView view_;
};

}  // namespace caravan
