// Traces of requests, as a JSON file in Triton's form: an array of objects, `id` joining them.
#pragma once

#include <chrono>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "gateway/triton/protocol/infer_message.h"
#include "gateway/triton/protocol/request_check.h"
#include "gateway/triton/settings.h"

namespace caravan {

// One request's trace; written when it is complete. Loop thread only.
struct RequestTrace {
  uint64_t id = 0;
  std::string model_name;
  std::string model_version;
  std::string request_id;
  TraceSettings settings;
  // REQUEST_START, QUEUE_START, COMPUTE_START, COMPUTE_INPUT_END, COMPUTE_OUTPUT_START,
  // COMPUTE_END, INFER_RESPONSE_COMPLETE, REQUEST_END.
  std::vector<std::pair<const char*, std::chrono::steady_clock::time_point>> timestamps;
  std::vector<std::string> tensors;  // JSON objects: activity and tensor
  size_t tensor_bytes = 0;
  uint64_t tensors_left_out = 0;

  void Stamp(const char* name);
  void AddTensor(const char* activity, const std::string& name, const CheckedInput& input);
  void AddTensor(const char* activity, const InferOutput& output);

 private:
  // A stream of cumulative responses would keep everything many times: after kMaxTensorBytes
  // tensors are counted only, and the trace says how many.
  static constexpr size_t kMaxTensorBytes = 1 << 20;
  void Keep(std::string object);
  bool KeepsTensors();
};

// Loop thread only. Writing blocks for as long as the file system takes; tracing is for one request
// in trace_rate.
class TraceWriter {
 public:
  ~TraceWriter();

  // A trace for this request, or nullptr where the scope's settings leave it out.
  std::shared_ptr<RequestTrace> Sample(TraceScope* scope);
  void Write(const RequestTrace& trace);

 private:
  struct File {
    std::ofstream stream;
    std::string name;
    uint64_t bytes = 0;     // in the file that is open, up to the end of its last trace
    uint32_t complete = 0;  // requests in it
    uint32_t index = 0;     // of the next file, with log_frequency
    uint64_t lost = 0;      // traces that could not be written since the last that could
  };

  absl::Status Open(const TraceSettings& settings, File* file);
  void Close(File* file);
  void GiveUp(File* file, const std::string& error);

  uint64_t next_id_ = 1;
  std::map<std::string, std::unique_ptr<File>> files_;  // by trace_file
};

}  // namespace caravan
