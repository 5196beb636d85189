#include "gateway/triton/model_repository.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/log.h"
#include "common/status.h"

namespace caravan {

using Phase = ModelState::Phase;

absl::Status CheckRepository(const std::string& repository) {
  if (repository.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model repository '", repository,
                                          "' is not known; leave repository_name empty"));
}

ModelRepository::ModelRepository(const std::vector<TritonModel>* models, const TritonConfig& config,
                                 ModelCommands* commands)
    : models_(models), config_(config), commands_(commands) {
  const std::vector<std::string>& load = config.load_models;
  const auto named = [&](const std::string& name) {
    return std::find(load.begin(), load.end(), name) != load.end();
  };
  for (const TritonModel& model : *models) {
    open_[model.name] =
        !config.explicit_model_control || named(model.name) || named("*") || named("ensemble");
  }
}

absl::Status CheckLoadModels(const TritonConfig& config) {
  if (config.load_models.empty()) return absl::OkStatus();
  if (!config.explicit_model_control) {
    return absl::InvalidArgumentError(
        "--triton_load_models is given, and all models are loaded at the start; it takes "
        "--triton_model_control_mode=explicit");
  }
  std::vector<std::string> served = {"*"};
  for (const TritonModel& model : MakeModelCatalog({})) served.push_back(model.name);
  for (const std::string& name : config.load_models) {
    if (std::find(served.begin(), served.end(), name) != served.end()) continue;
    return absl::InvalidArgumentError(absl::StrCat("--triton_load_models names '", name,
                                                   "', which is not served; it may name ",
                                                   absl::StrJoin(served, ", ")));
  }
  return absl::OkStatus();
}

const TritonModel* ModelRepository::Find(const std::string& name) const {
  const auto found = std::find_if(models_->begin(), models_->end(),
                                  [&](const TritonModel& model) { return model.name == name; });
  return found == models_->end() ? nullptr : &*found;
}

std::string ModelRepository::NameAtReplicas() const {
  if (!config_.model.empty()) return config_.model;
  const std::vector<std::string> names = commands_->names();
  return names.size() == 1 ? names[0] : "";
}

ModelState ModelRepository::StateOf(const TritonModel& model) const {
  if (model.kind == TritonModelKind::kFasterTransformer) {
    const std::string name = NameAtReplicas();
    if (!name.empty()) return commands_->StateOf(name);
  }
  if (open_.at(model.name)) return {};
  return {Phase::kUnloaded, "unloaded"};
}

bool ModelRepository::IsLoaded(const TritonModel& model) const {
  if (model.kind != TritonModelKind::kEnsemble) return IsOpen(model);
  return std::all_of(models_->begin(), models_->end(),
                     [this](const TritonModel& other) { return IsOpen(other); });
}

absl::Status ModelRepository::CheckControl(const std::string& repository) const {
  if (!config_.explicit_model_control) {
    return absl::UnavailableError(
        "explicit model load / unload is not allowed if polling is enabled");
  }
  return CheckRepository(repository);
}

absl::Status ModelRepository::CheckLoad(const std::string& name,
                                        const InferParameters& parameters) const {
  if (Find(name) == nullptr) {
    return absl::InternalError(
        absl::StrCat("failed to load '", name, "', failed to poll from model repository"));
  }
  if (parameters.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("failed to load '", name, "': load parameter '", parameters.begin()->first,
                   "' is not supported; a model can only be loaded as the gateway is configured"));
}

void ModelRepository::Load(const std::string& repository, const std::string& name,
                           const InferParameters& parameters, Done done) {
  absl::Status status = CheckControl(repository);
  if (status.ok()) status = CheckLoad(name, parameters);
  if (!status.ok()) return done(status);
  const TritonModelKind kind = Find(name)->kind;
  const bool all = kind == TritonModelKind::kEnsemble;
  const auto open = [this, name, all] {
    for (auto& [other, is_open] : open_) is_open = is_open || all || other == name;
    LogInfo("loaded", {{"model", name}});
  };
  if (!all && kind != TritonModelKind::kFasterTransformer) {
    open();
    return done(absl::OkStatus());
  }
  const std::string at_replicas = NameAtReplicas();
  if (at_replicas.empty()) {
    return done(absl::UnavailableError(
        absl::StrCat("failed to load '", name,
                     "', no replica has been reached yet, or several models are served and "
                     "--triton_model names none")));
  }
  commands_->Load(at_replicas, [name, open, done = std::move(done)](const absl::Status& loaded) {
    if (loaded.ok()) {
      open();
      return done(loaded);
    }
    const absl::StatusCode code =
        absl::IsUnavailable(loaded) ? loaded.code() : absl::StatusCode::kInternal;
    done(absl::Status(code, absl::StrCat("failed to load '", name, "', ", loaded.message())));
  });
}

void ModelRepository::Unload(const std::string& repository, const std::string& name,
                             bool unload_dependents, Done done) {
  if (const absl::Status status = CheckControl(repository); !status.ok()) return done(status);
  const TritonModel* model = Find(name);
  if (model == nullptr) {
    return done(
        absl::NotFoundError(absl::StrCat("Request for unknown model: '", name, "' is not found")));
  }
  const bool all = unload_dependents && model->kind == TritonModelKind::kEnsemble;
  for (auto& [other, is_open] : open_) is_open = is_open && !all && other != name;
  LogInfo("unloaded", {{"model", name}, {"dependents", all}});
  const std::string at_replicas = NameAtReplicas();
  const bool has_weights = all || model->kind == TritonModelKind::kFasterTransformer;
  if (!has_weights || at_replicas.empty()) return done(absl::OkStatus());
  commands_->Unload(at_replicas, [name, done = std::move(done)](const absl::Status& unloaded) {
    if (unloaded.ok()) return done(unloaded);
    done(absl::Status(unloaded.code(),
                      absl::StrCat("failed to unload '", name, "', ", unloaded.message())));
  });
}

}  // namespace caravan
