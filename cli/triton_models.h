// The four models of a LLaMA deployment on Triton, as they were shipped and are served here, and
// what a config.pbtxt says otherwise.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "inference/model_config.pb.h"

namespace caravan {

// ensemble, fastertransformer, preprocessing, postprocessing.
std::vector<std::string> ServedTritonModels();

// Name, backend, tensors and, of the ensemble, wiring: UNIMPLEMENTED names file and field of what
// is not served, a tensor of another type too. Tensors of other dimensions, which clients may or
// may not send, are added to `warnings`.
absl::Status CheckTritonModel(const inference::ModelConfig& config,
                              std::vector<std::string>* warnings);

// Adds a sentence for every field that is set and has no effect here.
void NoteIgnoredFields(const inference::ModelConfig& config, std::vector<std::string>* notes);

}  // namespace caravan
