#include "kernels/device/cuda_graph.h"

#include "kernels/device/cuda_check.h"

namespace caravan {

CudaEvent CudaEvent::Create() {
  CudaEvent event;
  CARAVAN_CUDA_CHECK(cudaEventCreate(&event.event_));
  return event;
}

CudaEvent::~CudaEvent() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

void CudaEvent::Record(const CudaStream& stream) {
  CARAVAN_CUDA_CHECK(cudaEventRecord(event_, stream.handle()));
}

void CudaEvent::Wait() const { CARAVAN_CUDA_CHECK(cudaEventSynchronize(event_)); }

double CudaEvent::SecondsSince(const CudaEvent& earlier) const {
  float milliseconds = 0;
  CARAVAN_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, earlier.event_, event_));
  return static_cast<double>(milliseconds) / 1000;
}

CudaGraph::~CudaGraph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

CudaGraph CudaGraph::Capture(const CudaStream& stream, const std::function<bool()>& enqueue) {
  // Thread-local: only this thread is kept from calls that can't be recorded.
  CARAVAN_CUDA_CHECK(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal));
  const bool complete = enqueue();
  cudaGraph_t recorded = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.handle(), &recorded);
  CudaGraph graph;
  if (complete) {
    CARAVAN_CUDA_CHECK(ended);
    CARAVAN_CUDA_CHECK(cudaGraphInstantiate(&graph.graph_, recorded, 0));
  } else {
    cudaGetLastError();  // what was cut short may not be a graph
  }
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  return graph;
}

void CudaGraph::Launch(const CudaStream& stream) const {
  CARAVAN_CUDA_CHECK(cudaGraphLaunch(graph_, stream.handle()));
}

}  // namespace caravan
