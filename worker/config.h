// The configuration of a worker.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace caravan {

struct WorkerConfig {
  // What is served, and as whom.
  std::string model;                 // folder: Hugging Face's or FasterTransformer's
  std::string model_name;            // as clients name it; empty: the folder's last name
  std::string device = "auto";       // "auto": "cuda" where a GPU can be used, else "cpu"
  std::string dtype = "auto";        // "auto": the checkpoint's; "float32", "bfloat16", "float16"
  std::string load_format = "auto";  // "dummy": random weights from config.json alone
  int max_context_tokens = 0;        // 0: what the model is made for
  bool load_at_start = true;         // false: once LoadModel asks for it

  // The process in its replica.
  int rank = 0;
  int tensor_parallel = 1;
  std::string leader_address;        // of rank 0; followers only
  std::string collectives = "auto";  // "auto", "shared_memory", "gloo", "peer", "nccl"
  // A rank that is silent for so long counts as lost (a dead one is noticed at once, by its
  // connection). 0: 1 s on CUDA, 5 s on the CPU, where ranks compete with their own heartbeats for
  // the cores: 3.4 s were seen on two cores with a load of 15.
  int rank_timeout_ms = 0;
  // Ranks that live, but whose step has made no progress for so long, give their epoch up; a
  // process that can't leave its step for as long again ends. 0: 30 s on CUDA, 120 s on the CPU,
  // where one layer of a long step may take that long.
  int wedge_timeout_ms = 0;
  std::string listen_address = "0.0.0.0:50051";
  std::string metrics_address;       // empty: no metrics
  std::string port_file;             // empty: none
  int max_message_bytes = 64 << 20;  // of one message from a gateway
  int max_session_tokens = 1 << 18;  // tokens kept for a gateway that does not read

  // The GPU.
  int gpu = -1;                      // among the visible ones; -1: the rank's number
  double gpu_memory_fraction = 0.9;  // of its memory, what is in use once all is allocated
  int gpu_memory_wait_ms = 10000;    // for what a dead process still holds
  bool cuda_graphs = true;
  bool batch_invariant = false;  // a request's bits do not depend on what else runs: slower

  // KV memory and what runs in it.
  int block_tokens = 16;
  int64_t kv_cache_bytes = 0;          // of this rank; 0: chosen from the memory that is free
                                       // (CUDA: by gpu_memory_fraction)
  int max_batch_tokens = 2048;         // of one step; bounds activation memory
  int max_prefill_chunk_tokens = 512;  // of one sequence in one step
  int max_running_sequences = 256;
  int max_waiting_requests = 4096;
  double step_time_target_ms = 0;  // 0: steps are bounded by max_batch_tokens alone
  bool enable_prefix_cache = true;
  bool pipelined = true;
  int pipeline_depth = 2;  // steps in flight
  bool check_invariants = false;
  int cpu_threads = 0;  // 0: OMP_NUM_THREADS, else the cores by the ranks

  // The end.
  int lameduck_ms = 200;         // new requests are still taken for so long
  int drain_timeout_ms = 30000;  // then those in flight may take so long
};

// From the flags; INVALID_ARGUMENT naming the flag, its value and the rule where one is broken.
absl::StatusOr<WorkerConfig> LoadWorkerConfig();

// The rules alone.
absl::Status CheckWorkerConfig(const WorkerConfig& config);

// KV bytes of one rank where kv_cache_bytes is 0: a quarter of the memory that is available on the
// host, shared by the replica's ranks, at most 4 GiB, at least 16 MiB.
int64_t DefaultKvCacheBytes(int tensor_parallel);

}  // namespace caravan
