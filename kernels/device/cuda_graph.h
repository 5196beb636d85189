// Points in a stream's time, and work of a stream that was recorded once to be run many times.
// Plain C++: no CUDA header leaks from here.
#pragma once

#include <functional>
#include <utility>

#include "kernels/device/cuda_stream.h"

struct CUevent_st;      // cudaEvent_t
struct CUgraphExec_st;  // cudaGraphExec_t

namespace caravan {

// Owns an event of the calling thread's current device. CUDA errors end the process.
class CudaEvent {
 public:
  CudaEvent() = default;  // none
  static CudaEvent Create();
  ~CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  // Passed when everything that was enqueued on `stream` so far has run.
  void Record(const CudaStream& stream);
  // Waits until it has passed; at once where it was never recorded. Any thread.
  void Wait() const;
  // Between two that have passed.
  double SecondsSince(const CudaEvent& earlier) const;

 private:
  CUevent_st* event_ = nullptr;
};

// Owns an instantiated graph.
class CudaGraph {
 public:
  CudaGraph() = default;  // empty
  ~CudaGraph();
  CudaGraph(CudaGraph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }

  // Records what `enqueue` puts on `stream`; nothing of it runs. Empty where `enqueue` returns
  // false. Other threads may use CUDA meanwhile.
  static CudaGraph Capture(const CudaStream& stream, const std::function<bool()>& enqueue);

  bool empty() const { return graph_ == nullptr; }
  void Launch(const CudaStream& stream) const;

 private:
  CUgraphExec_st* graph_ = nullptr;
};

}  // namespace caravan
