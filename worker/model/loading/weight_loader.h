// Fills a rank's weights, from a checkpoint or from nothing but their names.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device_stream.h"
#include "worker/model/llama_weights.h"
#include "worker/model/loading/checkpoint.h"

namespace caravan {

struct LoadThreads {
  int32_t count = 0;  // 0: one a processor, at most 16 that feed a GPU
  // Called with the bytes of weights that are in place and their sum, from a loading thread, one
  // call at a time.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress;
  DeviceStream stream = DeviceStream::Cpu();  // whose device the pieces' targets lie on
};

// Checks that the checkpoint has exactly the tensors of `pieces`, in their shapes and in float32,
// float16 or bfloat16: INVALID_ARGUMENT with one line a wrong, missing or unexpected tensor (the
// first 20), naming file, tensor, expected and found. Tensors in `ignored` may be there.
absl::Status CheckTensors(const Checkpoint& checkpoint, const std::vector<WeightPiece>& pieces,
                          const std::vector<std::string>& ignored);

// Copies and converts what `pieces` name; CheckTensors has passed. RESOURCE_EXHAUSTED where there
// is no memory to stage a GPU's weights in.
absl::Status LoadPieces(const Checkpoint& checkpoint, const std::vector<WeightPiece>& pieces,
                        const LoadThreads& threads);

// Fills norms with 1 and all else with a normal distribution of deviation 0.02, which depends only
// on a tensor's name and an element's place in the whole tensor, so that every sharding makes the
// same model.
absl::Status FillDummyPieces(const std::vector<WeightPiece>& pieces, const LoadThreads& threads);

}  // namespace caravan
