// An inference request and its responses, whatever the front door.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "gateway/triton/protocol/tensor.h"

namespace caravan {

using InferParameter = std::variant<bool, int64_t, uint64_t, double, std::string>;
using InferParameters = std::map<std::string, InferParameter>;

struct InferInput {
  std::string name;
  std::string datatype;  // as the client wrote it
  Shape shape;
  InferParameters parameters;  // shared_memory_region, _byte_size, _offset: the data is there
  std::string data;            // packed (tensor.h); unused with shared_memory_region
};

struct InferRequestedOutput {
  std::string name;
  InferParameters parameters;  // shared_memory_region, _byte_size, _offset: the data goes there
};

// A request as a front door fills it in; InferenceServer::Infer checks everything.
struct InferRequest {
  std::string model_name;
  std::string model_version;  // empty: the latest
  std::string id;             // the client's, given back; may be empty
  InferParameters parameters;
  std::vector<InferInput> inputs;
  std::vector<InferRequestedOutput> outputs;  // none: all

  // Of the call, not of the message.
  bool streaming = false;   // partial responses are wanted; false: only the final one
  std::string client;       // whom limits per client count: an address
  std::string request_id;   // x-request-id, for logs; empty: made from id, or drawn
  std::string traceparent;  // W3C trace context, or empty
  std::chrono::steady_clock::time_point arrival;
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

struct InferOutput {
  std::string name;
  DataType datatype = DataType::kInvalid;
  Shape shape;
  InferParameters parameters;  // those of shared memory, where the data was put there
  std::string data;            // packed; empty where it is in shared memory
};

struct InferResponse {
  std::string model_name;
  std::string model_version;
  std::string id;  // the client's
  InferParameters parameters;
  std::optional<bool> final;  // of a streaming request, always: parameter triton_final_response
  std::vector<InferOutput> outputs;
};

// Parameter names that mean something here (docs/compatibility.md).
inline constexpr char kFinalResponse[] = "triton_final_response";
inline constexpr char kEnableEmptyFinalResponse[] = "triton_enable_empty_final_response";
inline constexpr char kSharedMemoryRegion[] = "shared_memory_region";
inline constexpr char kSharedMemoryByteSize[] = "shared_memory_byte_size";
inline constexpr char kSharedMemoryOffset[] = "shared_memory_offset";
// Ours, opt-in; the tensors of the same names do the same.
inline constexpr char kExcludeInput[] = "exclude_input_in_output";
inline constexpr char kStreamDelta[] = "stream_delta";
inline constexpr char kStreamInterval[] = "stream_interval";

// Where a tensor lies in shared memory; nullopt: not there. INVALID_ARGUMENT names the tensor and
// the parameter that has the wrong kind, is missing or negative.
struct SharedMemoryUse {
  std::string region;
  uint64_t offset = 0;
  uint64_t byte_size = 0;
};
absl::StatusOr<std::optional<SharedMemoryUse>> SharedMemoryUseOf(const std::string& tensor,
                                                                 const InferParameters& parameters);

}  // namespace caravan
