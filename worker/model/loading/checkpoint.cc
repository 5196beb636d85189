#include "worker/model/loading/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "common/regular_file.h"
#include "common/status.h"
#include "worker/model/files/fastertransformer_folder.h"
#include "worker/model/files/json_reader.h"
#include "worker/model/files/safetensors.h"
#include "worker/model/files/torch_file.h"
#include "worker/model/loading/tensor_copy.h"

namespace caravan {
namespace {

constexpr char kSafetensorsFile[] = "model.safetensors";
constexpr char kTorchFile[] = "pytorch_model.bin";
constexpr char kIndexSuffix[] = ".index.json";
constexpr char kFasterTransformerFile[] = "config.ini";
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
  return absl::NotFoundError(absl::StrCat(
      "model folder ", folder, " has neither ", kSafetensorsFile, " nor ", kTorchFile,
      " nor one of them with ", kIndexSuffix, ", nor ", kFasterTransformerFile, found));
}

absl::StatusOr<std::unique_ptr<TensorFile>> OpenFile(const std::string& path) {
  if (path.ends_with(".bin")) return TorchFile::Open(path);
  return SafetensorsFile::Open(path);
}

// {tensor name: file name} of the index.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  std::map<std::string, std::string> places;
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path, kMaxIndexBytes));
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

// A sample of a matrix that lies in parts: of its first, middle and last row.
void AddRows(const TensorInfo& tensor, Fingerprint* fingerprint) {
  const int64_t element_bytes = SizeOf(*tensor.dtype());
  const int64_t cols = std::min(tensor.shape[1], kSampleBytes / element_bytes);
  std::vector<std::byte> sample(static_cast<size_t>(cols * element_bytes));
  for (const int64_t row : {int64_t{0}, tensor.shape[0] / 2, tensor.shape[0] - 1}) {
    CopyElements(tensor, {row, 1}, {0, cols}, *tensor.dtype(), sample.data());
    fingerprint->Add(sample.data(), sample.size());
  }
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& folder) {
  Checkpoint checkpoint;
  for (const char* name : {kSafetensorsFile, kTorchFile}) {
    checkpoint.description_ = absl::StrCat(folder, "/", name);
    ASSIGN_OR_RETURN(const bool is_whole, PathExists(checkpoint.description_));
    if (is_whole) {
      ASSIGN_OR_RETURN(auto file, OpenFile(checkpoint.description_));
      RETURN_IF_ERROR(checkpoint.Add(std::move(file)));
      return checkpoint;
    }
    const std::string index = absl::StrCat(name, kIndexSuffix);
    checkpoint.description_ = absl::StrCat(folder, "/", index);
    ASSIGN_OR_RETURN(const bool is_sharded, PathExists(checkpoint.description_));
    if (is_sharded) {
      RETURN_IF_ERROR(checkpoint.OpenShards(folder, index));
      return checkpoint;
    }
  }
  ASSIGN_OR_RETURN(const bool is_fastertransformer,
                   PathExists(absl::StrCat(folder, "/", kFasterTransformerFile)));
  if (!is_fastertransformer) return NoWeights(folder);
  checkpoint.description_ = folder;
  ASSIGN_OR_RETURN(auto file, FasterTransformerFolder::Open(folder));
  RETURN_IF_ERROR(checkpoint.Add(std::move(file)));
  return checkpoint;
}

absl::Status Checkpoint::OpenShards(const std::string& folder, const std::string& index) {
  ASSIGN_OR_RETURN(const auto places, ReadIndex(description_));
  std::set<std::string> names;
  for (const auto& [tensor, file] : places) names.insert(file);
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(auto file, OpenFile(absl::StrCat(folder, "/", name)));
    for (const TensorInfo& tensor : file->tensors()) {
      const auto place = places.find(tensor.name);
      if (place != places.end() && place->second == name) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(file->path(), ": tensor ", tensor.name, " is here, ", index, " has it ",
                       place == places.end() ? "nowhere" : absl::StrCat("in ", place->second)));
    }
    RETURN_IF_ERROR(Add(std::move(file)));
  }
  for (const auto& [tensor, file] : places) {
    if (tensors_.contains(tensor)) continue;
    return absl::InvalidArgumentError(absl::StrCat(folder, "/", file, ": tensor ", tensor,
                                                   " is missing, ", index, " has it here"));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Add(std::unique_ptr<TensorFile> file) {
  for (const TensorInfo& tensor : file->tensors()) {
    if (tensors_.emplace(tensor.name, Entry{file.get(), &tensor}).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(file->path(), ": tensor ", tensor.name, " is there twice"));
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

void Checkpoint::AddTo(Fingerprint* fingerprint) const {
  for (const auto& [name, entry] : tensors_) {
    const TensorInfo& tensor = *entry.tensor;
    fingerprint->Add(name);
    fingerprint->Add(tensor.dtype_name);
    fingerprint->Add(tensor.ShapeText());
    if (!tensor.parts.empty() && tensor.dtype()) {
      AddRows(tensor, fingerprint);
      continue;
    }
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
