// The options of `up` and `demo` that say what to start.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/cluster.h"
#include "cli/options.h"

namespace caravan {

struct ClusterFlags {
  std::string model;
  std::string tokenizer;
  std::string model_name;
  std::optional<int64_t> tensor_parallel;  // 1, or what the repository says
  int64_t replicas = 1;
  std::string host = "127.0.0.1";
  int64_t gateway_port = 0;
  int64_t http_port = 0;
  int64_t metrics_port = 0;
  int64_t tokenizer_port = 0;
  std::string device;
  std::string gpus;
  std::string dtype;
  std::string load_format;
  std::string kv_cache_bytes;
  std::string max_batch_tokens;
  std::string worker_flags;
  std::string gateway_flags;
  std::string tokenizer_flags;
  int64_t drain_timeout_ms = 30000;
  std::string log_dir;

  std::string triton_model_repository;
  std::vector<std::string> triton_flags;  // of the gateway, from the repository
  std::string triton_model_control_mode;
  std::string triton_load_models;

  void AddTo(Options* options);
  // Ends the process with 2 where a number is out of range.
  ClusterOptions MakeOrExit(const Options& options) const;

  // Takes what the repository says, where there is one, for what was not given; prints what is
  // served otherwise. Before MakeOrExit.
  absl::Status TakeTritonRepository();

 private:
  void CheckControlOrExit(const Options& options) const;
  std::vector<int> GpusOrExit(const Options& options, int workers) const;
};

// "0,0,1,1": the GPU of each of `workers` workers. INVALID_ARGUMENT where a part is no number of a
// GPU, or there are not as many.
absl::StatusOr<std::vector<int>> ParseGpus(const std::string& text, int workers);

// The top folder of the repository that this program was built in.
std::string RepositoryFolder();

}  // namespace caravan
