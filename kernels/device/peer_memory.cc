#include "kernels/device/peer_memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>

#include "kernels/device/cuda_check.h"

namespace caravan {
namespace {

constexpr int kEmpty = 0xff;  // every byte of a region that holds no data

uint64_t ThisProcess() {
  static const uint64_t id = [] {
    std::random_device random;
    return (uint64_t{random()} << 32) | random();
  }();
  return id;
}

std::string Describe(const PeerEndpoint& endpoint) {
  return "GPU " + std::string(endpoint.pci_bus_id.data());
}

bool Failed(cudaError_t error, const std::string& what, std::string* problem) {
  if (error == cudaSuccess) return false;
  cudaGetLastError();  // not sticky: the next call must not see it
  *problem = what + ": " + cudaGetErrorString(error);
  return true;
}

std::atomic_ref<unsigned int> WordOf(const PinnedMemory& memory) {
  return std::atomic_ref<unsigned int>(*memory.as<unsigned int>());
}

}  // namespace

std::unique_ptr<PeerMemory> PeerMemory::Create(int device, int64_t region_bytes, int64_t ring_bytes,
                                               std::string* problem) {
  CARAVAN_CHECK(region_bytes > 0 && region_bytes % (int64_t{16} * kMostPeers) == 0, region_bytes);
  CARAVAN_CHECK(ring_bytes >= 0 && ring_bytes % 16 == 0, ring_bytes);
  std::unique_ptr<PeerMemory> memory(new PeerMemory);
  PeerEndpoint& own = memory->endpoint_;
  memory->device_ = own.device = device;
  own.process = ThisProcess();
  own.region_bytes = region_bytes;
  own.ring_bytes = ring_bytes;
  if (Failed(cudaSetDevice(device), "GPU " + std::to_string(device), problem)) return nullptr;
  cudaDeviceGetPCIBusId(own.pci_bus_id.data(), static_cast<int>(own.pci_bus_id.size()), device);
  CARAVAN_CUDA_CHECK(
      cudaDeviceGetAttribute(&own.num_multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const auto bytes = static_cast<size_t>(2 * region_bytes + ring_bytes);
  if (Failed(cudaMalloc(&memory->regions_, bytes),
             Describe(own) + ": " + std::to_string(bytes >> 20) + " MiB for peers", problem)) {
    memory->regions_ = nullptr;
    return nullptr;
  }
  memory->counters_ = DeviceMemory::Allocate(sizeof(PeerCounters));
  memory->abort_word_ = PinnedMemory::Allocate(sizeof(unsigned int));
  if (memory->counters_.data() == nullptr || memory->abort_word_.data() == nullptr) {
    *problem = Describe(own) + ": no memory for peers' counters";
    return nullptr;
  }
  CARAVAN_CUDA_CHECK(cudaMemset(memory->regions_, kEmpty, bytes));
  CARAVAN_CUDA_CHECK(cudaStreamSynchronize(nullptr));
  std::memcpy(&own.address, &memory->regions_, sizeof(own.address));
  cudaIpcMemHandle_t handle;
  static_assert(sizeof(handle) == sizeof(own.ipc_handle));
  // Ranks of one process need no handle, so where there is none the others say so.
  if (cudaIpcGetMemHandle(&handle, memory->regions_) == cudaSuccess) {
    std::memcpy(own.ipc_handle.data(), &handle, sizeof(handle));
  } else {
    cudaGetLastError();
  }
  return memory;
}

PeerMemory::~PeerMemory() {
  cudaSetDevice(device_);
  cudaDeviceSynchronize();
  for (void* peer : opened_) cudaIpcCloseMemHandle(peer);
  if (regions_ != nullptr) cudaFree(regions_);
}

bool PeerMemory::Map(int rank, std::span<const PeerEndpoint> endpoints, std::string* problem) {
  CARAVAN_CHECK(endpoints.size() <= kMostPeers && view_.counters == nullptr);
  if (Failed(cudaSetDevice(device_), Describe(endpoint_), problem)) return false;
  PeerView view;
  view.rank = rank;
  view.world_size = static_cast<int>(endpoints.size());
  view.region_bytes = endpoint_.region_bytes;
  view.ring_bytes = endpoint_.ring_bytes;
  view.max_blocks = endpoint_.num_multiprocessors;
  for (int r = 0; r < view.world_size; ++r) {
    const PeerEndpoint& endpoint = endpoints[static_cast<size_t>(r)];
    if (endpoint.region_bytes != endpoint_.region_bytes ||
        endpoint.ring_bytes != endpoint_.ring_bytes) {
      *problem = Describe(endpoint) + " has regions of another size: builds differ";
      return false;
    }
    // Ranks on one GPU share its multiprocessors.
    int sharing = 1;
    for (int other = 0; other < view.world_size; ++other) {
      const PeerEndpoint& peer = endpoints[static_cast<size_t>(other)];
      if (other != r && peer.pci_bus_id == endpoint.pci_bus_id) ++sharing;
    }
    view.shares_gpu = view.shares_gpu || sharing > 1;
    view.max_blocks = std::min(view.max_blocks, endpoint.num_multiprocessors / sharing);
    std::byte* const mapped = r == rank ? regions_ : Open(endpoint, problem);
    if (mapped == nullptr) return false;
    view.regions[static_cast<size_t>(r)] = mapped;
  }
  view.counters = counters_.as<PeerCounters>();
  view.abort_word = abort_word_.as<unsigned int>();
  view_ = view;
  return true;
}

std::byte* PeerMemory::Open(const PeerEndpoint& endpoint, std::string* problem) {
  const std::string path = Describe(endpoint_) + " can't reach " + Describe(endpoint);
  int device = device_;
  if (endpoint.process == ThisProcess()) {
    device = endpoint.device;
  } else if (cudaDeviceGetByPCIBusId(&device, endpoint.pci_bus_id.data()) != cudaSuccess) {
    cudaGetLastError();
    *problem = path + ": this process does not see it (CUDA_VISIBLE_DEVICES?)";
    return nullptr;
  }
  int reachable = 1;
  if (device != device_) CARAVAN_CUDA_CHECK(cudaDeviceCanAccessPeer(&reachable, device_, device));
  if (reachable == 0) {
    *problem = path + ": these two have no peer access";
    return nullptr;
  }
  if (endpoint.process == ThisProcess()) {
    if (device != device_) {
      const cudaError_t error = cudaDeviceEnablePeerAccess(device, 0);
      if (error == cudaErrorPeerAccessAlreadyEnabled) {
        cudaGetLastError();
      } else if (Failed(error, path, problem)) {
        return nullptr;
      }
    }
    std::byte* address = nullptr;
    static_assert(sizeof(address) == sizeof(endpoint.address));
    std::memcpy(&address, &endpoint.address, sizeof(address));
    return address;
  }
  cudaIpcMemHandle_t handle;
  std::memcpy(&handle, endpoint.ipc_handle.data(), sizeof(handle));
  void* mapped = nullptr;
  if (Failed(cudaIpcOpenMemHandle(&mapped, handle, cudaIpcMemLazyEnablePeerAccess),
             path + " through CUDA IPC", problem)) {
    return nullptr;
  }
  opened_.push_back(mapped);
  return static_cast<std::byte*>(mapped);
}

void PeerMemory::Abort() { WordOf(abort_word_).store(1); }

bool PeerMemory::aborted() const { return WordOf(abort_word_).load() != 0; }

}  // namespace caravan
