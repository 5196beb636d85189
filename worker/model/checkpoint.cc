#include "worker/model/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "common/status.h"
#include "worker/model/json_reader.h"

namespace caravan {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr int64_t kSampleBytes = 4096;  // of each tensor's begin, middle and end

absl::Status NoWeights(const std::string& folder) {
  std::string found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".bin") || name.ends_with(".safetensors") || name.ends_with(".gguf")) {
      found = absl::StrCat(" (it has ", name, ", which is not read)");
    }
  }
  return absl::NotFoundError(absl::StrCat("model folder ", folder, " has neither ", kSingleFile,
                                          " nor ", kIndexFile, found));
}

// {tensor name: file name} of the index; empty where there is a single file.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& folder) {
  std::map<std::string, std::string> places;
  const std::string path = folder + "/" + kIndexFile;
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxIndexBytes));
  ASSIGN_OR_RETURN(const nlohmann::json root, ParseJsonObject(text, path));
  const auto weight_map = root.find("weight_map");
  if (weight_map == root.end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": weight_map is missing or not an object"));
  }
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string() || file.get_ref<const std::string&>().empty() ||
        file.get_ref<const std::string&>().find('/') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map['", tensor, "'] is ",
                                                     Brief(file),
                                                     ", must be the name of a file in the folder"));
    }
    places[tensor] = file.get<std::string>();
  }
  return places;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& folder) {
  Checkpoint checkpoint;
  std::map<std::string, std::string> places;
  std::set<std::string> names;
  std::error_code error;
  const bool single = std::filesystem::exists(folder + "/" + kSingleFile, error);
  if (single) {
    names.insert(kSingleFile);
    checkpoint.description_ = folder + "/" + kSingleFile;
  } else if (std::filesystem::exists(folder + "/" + kIndexFile, error)) {
    ASSIGN_OR_RETURN(places, ReadIndex(folder));
    for (const auto& [tensor, file] : places) names.insert(file);
    checkpoint.description_ = folder + "/" + kIndexFile;
  } else {
    return NoWeights(folder);
  }
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
    for (const TensorInfo& tensor : file->tensors()) {
      const auto place = places.find(tensor.name);
      if (!single && (place == places.end() || place->second != name)) {
        return absl::InvalidArgumentError(absl::StrCat(
            file->path(), ": tensor ", tensor.name, " is here, ", kIndexFile, " has it ",
            place == places.end() ? "nowhere" : absl::StrCat("in ", place->second)));
      }
      checkpoint.tensors_[tensor.name] = {file.get(), &tensor};
    }
    checkpoint.files_.push_back(std::move(file));
  }
  for (const auto& [tensor, file] : places) {
    if (checkpoint.tensors_.contains(tensor)) continue;
    return absl::InvalidArgumentError(absl::StrCat(folder, "/", file, ": tensor ", tensor,
                                                   " is missing, ", kIndexFile, " has it here"));
  }
  return checkpoint;
}

void Checkpoint::AddTo(Fingerprint* fingerprint) const {
  for (const auto& [name, entry] : tensors_) {
    const TensorInfo& tensor = *entry.tensor;
    fingerprint->Add(name);
    fingerprint->Add(tensor.dtype_name);
    fingerprint->Add(tensor.ShapeText());
    const int64_t sample = std::min(tensor.bytes, kSampleBytes);
    for (const int64_t begin : {int64_t{0}, (tensor.bytes - sample) / 2, tensor.bytes - sample}) {
      fingerprint->Add(tensor.data + begin, static_cast<size_t>(sample));
    }
  }
}

void Fingerprint::Add(const void* data, size_t bytes) {
  constexpr unsigned __int128 kPrime = (static_cast<unsigned __int128>(1) << 88) | 0x13b;
  const auto* byte = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash_ = (hash_ ^ byte[i]) * kPrime;
}

void Fingerprint::Add(std::string_view text) {
  Add(static_cast<int64_t>(text.size()));
  Add(text.data(), text.size());
}

void Fingerprint::Add(int64_t number) {
  unsigned char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(number >> (8 * i));
  Add(bytes, sizeof(bytes));
}

std::string Fingerprint::Hex() const {
  char text[40];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(hash_ >> 64),
                static_cast<unsigned long long>(hash_));
  return text;
}

}  // namespace caravan
