// From a model folder to one rank's model, ready to run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device_stream.h"
#include "kernels/view.h"
#include "worker/model/llama.h"
#include "worker/model/loading/checkpoint.h"
#include "worker/model/model_config.h"
#include "worker/model/sharding.h"

namespace caravan {

struct LoadOptions {
  std::string model_folder;
  std::string load_format = "auto";  // "auto": safetensors; "dummy": random, from config.json alone
  std::string dtype = "auto";        // "auto": the checkpoint's; "float32", "float16", "bfloat16"
  Shard shard;
  DeviceStream stream = DeviceStream::Cpu();  // where the model runs
  int32_t max_context_tokens = 0;             // 0: what the model is made for
  int32_t max_batch_tokens = 2048;
  int32_t max_logit_rows = 256;
  int32_t load_threads = 0;                                               // 0: see LoadThreads
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;  // while weights load
};

// A model folder that was read and checked, before memory is taken for it.
struct LlamaSource {
  ModelConfig config;
  ShardLayout layout;
  DType dtype = DType::kFloat32;
  int32_t max_context_tokens = 0;
  std::optional<Checkpoint> checkpoint;  // none with --load_format=dummy
};

// Reads the folder's config.json and the headers of its weights. Errors name the file, field or
// flag that is wrong.
absl::StatusOr<LlamaSource> OpenLlama(const LoadOptions& options);

// Loads this rank's part. `options` are those that OpenLlama took.
absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(LlamaSource source,
                                                      const LoadOptions& options);
absl::StatusOr<std::unique_ptr<LlamaModel>> LoadLlama(const LoadOptions& options);  // both

}  // namespace caravan
