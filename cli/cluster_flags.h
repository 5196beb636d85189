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
  // Ends the process with 2 where a number is out of range, or a flag to be passed on is one that
  // processes are given anyway.
  ClusterOptions MakeOrExit(const Options& options) const;

  // Takes what the repository says, where there is one, for what was not given; prints what is
  // served otherwise. Before MakeOrExit.
  absl::Status TakeTritonRepository();

 private:
  // Of model control, what `gateway_flags` say where they do: they come last.
  std::string ControlMode() const;
  std::string LoadedModels() const;
  void CheckControlOrExit(const Options& options) const;
  void CheckPassedFlagsOrExit(const Options& options) const;
  void StartUnloadedIfExplicit(ClusterOptions* cluster) const;
  std::vector<int> GpusOrExit(const Options& options, int workers) const;
};

// "0,0,1,1": the GPU of each of `workers` workers. INVALID_ARGUMENT where a part is no number of a
// GPU, or there are not as many.
absl::StatusOr<std::vector<int>> ParseGpus(const std::string& text, int workers);

// A sentence for each of `flags`, a command line given with --`option`, that says otherwise than
// `from_repository` ("--name=value" each). The last of a name counts, and values are compared by
// what they mean: "--x", "--x=1" and "--x=true" are one, and so are "/model" and "/model/".
std::vector<std::string> NotesOfOverrides(const std::string& option, const std::string& flags,
                                          const std::vector<std::string>& from_repository);

// The top folder of the repository that this program was built in.
std::string RepositoryFolder();

}  // namespace caravan
