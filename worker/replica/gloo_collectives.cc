#include "worker/replica/gloo_collectives.h"

#include <gloo/context.h>
#include <gloo/transport/context.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

#include "common/status.h"
#include "worker/replica/reduce.h"

namespace caravan {
namespace {

constexpr int64_t kSlotBytes = 1 << 20;

absl::Status Lost(const char* why) {
  return absl::UnavailableError(
      absl::StrCat("the group of ranks was given up: one of them was lost (", why, ")"));
}

// Runs `action`, with Gloo's exceptions as statuses.
template <typename Action>
absl::Status Guarded(const char* what, Action action) {
  try {
    return action();
  } catch (const std::exception& error) {
    // Gloo puts the place in its source first: "[file:line] sentence".
    std::string why = error.what();
    if (const size_t end = why.find("] "); end != std::string::npos) why.erase(0, end + 2);
    return absl::UnavailableError(absl::StrCat(what, ": ", why));
  }
}

// A mesh of TCP connections, made without Gloo's rendezvous: addresses are exchanged by the caller.
class Mesh : public ::gloo::Context {
 public:
  explicit Mesh(const GroupSpec& spec) : ::gloo::Context(spec.rank, spec.world_size) {
    ::gloo::transport::tcp::attr attr;
    attr.hostname = spec.host;
    device_ = ::gloo::transport::tcp::CreateDevice(attr);
    transportContext_ = device_->createContext(rank, size);
    SetTimeout(spec.connect_timeout);  // a pair takes it when it is made
    for (int peer = 0; peer < size; ++peer) {
      if (peer != rank) transportContext_->createPair(peer);
    }
  }

  void SetTimeout(absl::Duration timeout) {
    setTimeout(absl::ToChronoMilliseconds(timeout));
    transportContext_->setTimeout(absl::ToChronoMilliseconds(timeout));
  }

  // The addresses of this rank's ports, one for each rank in order (its own is empty), each after
  // its length in two bytes.
  std::string Addresses() {
    std::string addresses;
    for (int peer = 0; peer < size; ++peer) {
      std::vector<char> bytes;
      if (peer != rank) bytes = getPair(peer)->address().bytes();
      addresses.push_back(static_cast<char>(bytes.size() >> 8));
      addresses.push_back(static_cast<char>(bytes.size() & 0xff));
      addresses.append(bytes.begin(), bytes.end());
    }
    return addresses;
  }

  // The port for `rank` among another rank's Addresses(); empty where there is none.
  static std::vector<char> AddressFor(int rank, const std::string& addresses) {
    size_t at = 0;
    for (int r = 0;; ++r) {
      if (at + 2 > addresses.size()) return {};
      const size_t bytes = (static_cast<unsigned char>(addresses[at]) << 8) |
                           static_cast<unsigned char>(addresses[at + 1]);
      at += 2;
      if (at + bytes > addresses.size()) return {};
      if (r == rank) return {addresses.begin() + at, addresses.begin() + at + bytes};
      at += bytes;
    }
  }
};

class GlooCollectives final : public Collectives {
 public:
  explicit GlooCollectives(std::shared_ptr<Mesh> mesh)
      : mesh_(std::move(mesh)),
        slots_(static_cast<size_t>(mesh_->size * kSlotBytes)),
        buffer_(mesh_->createUnboundBuffer(slots_.data(), slots_.size())) {
    for (int r = 0; r < mesh_->size; ++r) sources_.push_back(Slot(r));
  }
  ~GlooCollectives() override { GlooCollectives::Abort(); }

  int rank() const override { return mesh_->rank; }
  int world_size() const override { return mesh_->size; }
  absl::Status status() const override { return aborted_ ? Lost("aborted") : absl::OkStatus(); }

  void Abort() override {
    if (aborted_.exchange(true)) return;
    buffer_->abortWaitRecv();
    buffer_->abortWaitSend();
    // Peers that wait for this rank see their connections break.
    Guarded("close", [&] {
      mesh_->closeConnections();
      return absl::OkStatus();
    }).IgnoreError();
  }

  absl::Status AllReduceSum(MatrixView x, DeviceStream stream) override {
    CARAVAN_CHECK(stream.device() == Device::kCpu && x.row_stride == x.cols);
    const int64_t bytes = x.rows * x.cols * SizeOf(x.dtype);
    auto* data = static_cast<std::byte*>(x.data);
    for (int64_t first = 0; first < bytes; first += kSlotBytes) {
      const int64_t size = std::min(kSlotBytes, bytes - first);
      std::memcpy(Slot(rank()), data + first, size);
      RETURN_IF_ERROR(Exchange(size, [](int from, int to) { return true; }));
      SumInOrder(sources_, x.dtype, size / SizeOf(x.dtype), data + first);
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
      std::memcpy(Slot(rank()), data + first, size);
      RETURN_IF_ERROR(Exchange(size, [](int from, int to) { return to == 0; }));
      for (int r = 0; rank() == 0 && r < world_size(); ++r) {
        for (int64_t at = first; at < first + size;) {
          const int64_t column = at % row_bytes;
          const int64_t run = std::min(row_bytes - column, first + size - at);
          std::memcpy(static_cast<std::byte*>(full.row(at / row_bytes)) + r * row_bytes + column,
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
      if (rank() == root) std::memcpy(Slot(root), part, size);
      RETURN_IF_ERROR(
          Exchange(static_cast<int64_t>(size), [root](int from, int to) { return from == root; }));
      if (rank() != root) std::memcpy(part, Slot(root), size);
    }
    return absl::OkStatus();
  }

 private:
  std::byte* Slot(int rank) { return slots_.data() + rank * kSlotBytes; }

  // The first `bytes` of each rank's slot go into the same slot of every rank that `sends(from,
  // to)` names.
  template <typename Sends>
  absl::Status Exchange(int64_t bytes, Sends sends) {
    if (aborted_) return Lost("aborted");
    const uint64_t tag = next_tag_++;
    return Guarded("a rank was lost", [&]() -> absl::Status {
      int sent = 0;
      int received = 0;
      for (int peer = 0; peer < world_size(); ++peer) {
        if (peer == rank()) continue;
        if (sends(peer, rank())) {
          buffer_->recv(peer, tag, static_cast<size_t>(peer * kSlotBytes),
                        static_cast<size_t>(bytes));
          ++received;
        }
        if (sends(rank(), peer)) {
          buffer_->send(peer, tag, static_cast<size_t>(rank() * kSlotBytes),
                        static_cast<size_t>(bytes));
          ++sent;
        }
      }
      for (; received > 0; --received) {
        if (!buffer_->waitRecv()) return Lost("aborted");
      }
      for (; sent > 0; --sent) {
        if (!buffer_->waitSend()) return Lost("aborted");
      }
      return absl::OkStatus();
    });
  }

  const std::shared_ptr<Mesh> mesh_;
  std::vector<std::byte> slots_;
  const std::unique_ptr<::gloo::transport::UnboundBuffer> buffer_;
  std::vector<const void*> sources_;
  uint64_t next_tag_ = 0;
  std::atomic<bool> aborted_{false};
};

class GlooBuilder final : public CollectivesBuilder {
 public:
  GlooBuilder(std::shared_ptr<Mesh> mesh, absl::Duration operation_timeout)
      : mesh_(std::move(mesh)),
        operation_timeout_(operation_timeout),
        address_(mesh_->Addresses()) {}

  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Collectives>> Connect(
      std::span<const std::string> addresses) override {
    if (static_cast<int>(addresses.size()) != mesh_->size) {
      return absl::UnavailableError(
          absl::StrCat("rendezvous of ", addresses.size(), " ranks in a replica of ", mesh_->size));
    }
    RETURN_IF_ERROR(Guarded("ranks can't connect", [&]() -> absl::Status {
      for (int peer = 0; peer < mesh_->size; ++peer) {
        if (peer == mesh_->rank) continue;
        const std::vector<char> address = Mesh::AddressFor(mesh_->rank, addresses[peer]);
        if (address.empty()) return absl::UnavailableError("a rank sent no address");
        mesh_->getPair(peer)->connect(address);
      }
      return absl::OkStatus();
    }));
    if (aborted_) return Lost("aborted");
    mesh_->SetTimeout(operation_timeout_);
    return std::make_unique<GlooCollectives>(mesh_);
  }

  void Abort() override {
    if (aborted_.exchange(true)) return;
    Guarded("close", [&] {
      mesh_->closeConnections();
      return absl::OkStatus();
    }).IgnoreError();
  }

 private:
  const std::shared_ptr<Mesh> mesh_;
  const absl::Duration operation_timeout_;
  const std::string address_;
  std::atomic<bool> aborted_{false};
};

}  // namespace

absl::StatusOr<std::unique_ptr<CollectivesBuilder>> MakeGlooBuilder(const GroupSpec& spec) {
  // Gloo writes to sockets without MSG_NOSIGNAL: a peer's death must be an error, not ours.
  std::signal(SIGPIPE, SIG_IGN);
  std::unique_ptr<CollectivesBuilder> builder;
  RETURN_IF_ERROR(Guarded("can't open ports for collectives", [&] {
    builder = std::make_unique<GlooBuilder>(std::make_shared<Mesh>(spec), spec.operation_timeout);
    return absl::OkStatus();
  }));
  return builder;
}

}  // namespace caravan
