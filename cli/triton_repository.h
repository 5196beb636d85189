// A model repository of Triton Inference Server with LLaMA on the FasterTransformer backend: what
// `caravan up --triton_model_repository` serves in its place.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace caravan {

struct TritonRepository {
  std::string checkpoint;             // folder of the model
  int tensor_parallel = 1;            // all of its GPUs: tensor_para_size · pipeline_para_size
  std::string data_type;              // fp16, bf16 or fp32, as its config.pbtxt says
  bool decoupled = false;             // of the model fastertransformer
  int max_batch_size = 1;             // the least of all models
  std::vector<std::string> notes;     // one sentence for each thing that is done otherwise here
  std::vector<std::string> warnings;  // … that the model's answers or clients may show

  std::string dtype() const;  // the worker's name for data_type
};

// Reads the config.pbtxt of every folder in `folder`: one model of the fastertransformer backend,
// and the others of that deployment (ensemble, preprocessing, postprocessing), wired as they were
// shipped. INVALID_ARGUMENT, NOT_FOUND or UNIMPLEMENTED name file and field of what is wrong or
// can't be served; what has no effect here is a note.
absl::StatusOr<TritonRepository> ReadTritonRepository(const std::string& folder);

}  // namespace caravan
