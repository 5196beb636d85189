// The tensors of a model folder: Hugging Face's (model.safetensors or pytorch_model.bin, or the
// shards that the index beside them names) or FasterTransformer's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/files/tensor_info.h"

namespace caravan {

// FNV-1a of 128 bits (Fowler, Noll, Vo). Equal models have equal fingerprints on every machine;
// not meant against an adversary.
class Fingerprint {
 public:
  void Add(const void* data, size_t bytes);
  void Add(std::string_view text);  // and its length, so that "ab", "c" is not "a", "bc"
  void Add(int64_t number);
  std::string Hex() const;  // 32 digits

 private:
  unsigned __int128 hash_ =
      (static_cast<unsigned __int128>(0x6c62272e07bb0142) << 64) | 0x62b821756295c58d;
};

class Checkpoint {
 public:
  // Maps all files and checks that each tensor is in one file, the one that the index says. Where
  // several formats lie in the folder, safetensors go before torch's, and these before
  // FasterTransformer's.
  static absl::StatusOr<Checkpoint> Open(const std::string& folder);

  struct Entry {
    const TensorFile* file;
    const TensorInfo* tensor;
  };
  // By name; pointers live as long as the checkpoint.
  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  // Where a tensor that was not found should have been, for errors.
  const std::string& description() const { return description_; }

  // Names, dtypes, shapes and a sample of the bytes of all tensors, wherever they lie.
  void AddTo(Fingerprint* fingerprint) const;

 private:
  absl::Status Add(std::unique_ptr<TensorFile> file);
  absl::Status OpenShards(const std::string& folder, const std::string& index);

  std::vector<std::unique_ptr<TensorFile>> files_;
  std::map<std::string, Entry> tensors_;
  std::string description_;
};

}  // namespace caravan
