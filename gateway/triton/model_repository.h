// Which of Triton's models are loaded, and how clients change that.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gateway/config.h"
#include "gateway/model_commands.h"
#include "gateway/triton/protocol/infer_message.h"
#include "gateway/triton/protocol/model_catalog.h"

namespace caravan {

// Loop thread only. `fastertransformer` has the weights: loading and unloading it is done by the
// replicas, and it is what they are, whoever commanded it. The other models are only open or not,
// in this gateway.
class ModelRepository {
 public:
  using Done = std::function<void(const absl::Status&)>;

  // Both outlive this.
  ModelRepository(const std::vector<TritonModel>* models, const TritonConfig& config,
                  ModelCommands* commands);

  // nullptr: there is none of that name.
  const TritonModel* Find(const std::string& name) const;

  // Of the model itself: an ensemble's others do not count.
  ModelState StateOf(const TritonModel& model) const;
  bool IsOpen(const TritonModel& model) const {
    return StateOf(model).phase == ModelState::Phase::kLoaded;
  }
  // The ensemble needs all of its models.
  bool IsLoaded(const TritonModel& model) const;

  // Whether clients may load and unload models, in the control mode explicit.
  bool is_controlled() const { return config_.explicit_model_control; }
  // UNAVAILABLE unless is_controlled(). Loading the ensemble loads its models too.
  // Load parameters (config, file:…) are UNIMPLEMENTED.
  void Load(const std::string& repository, const std::string& name,
            const InferParameters& parameters, Done done);
  // Nothing new is taken from now on; `done` when what runs has finished and the memory is free.
  void Unload(const std::string& repository, const std::string& name, bool unload_dependents,
              Done done);

 private:
  absl::Status CheckControl(const std::string& repository) const;
  absl::Status CheckLoad(const std::string& name, const InferParameters& parameters) const;
  std::string NameAtReplicas() const;  // of the model that has the weights; "": not known

  const std::vector<TritonModel>* const models_;
  const TritonConfig config_;
  ModelCommands* const commands_;
  std::map<std::string, bool> open_;  // by name
};

// INVALID_ARGUMENT where models to be loaded at the start are named without explicit control, or
// are none of these.
absl::Status CheckLoadModels(const TritonConfig& config);

// NOT_FOUND for a repository but the only one, the empty name.
absl::Status CheckRepository(const std::string& repository);

}  // namespace caravan
