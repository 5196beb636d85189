// Model folders that tests write.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace caravan {

// A folder under the test's temporary directory, removed with its files at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  void Write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

// A tensor to write; `data` holds its bytes.
struct TensorToWrite {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

TensorToWrite FloatTensor(const std::string& name, std::vector<int64_t> shape,
                          const std::vector<float>& values);

// The bytes of a safetensors file with this header, whatever it says.
std::string SafetensorsBytes(const std::string& header, const std::string& data);
// The bytes of a correct one.
std::string SafetensorsBytes(const std::vector<TensorToWrite>& tensors);

// config.json of a LLaMA of 2 layers, hidden size 64, 4 heads of 32, 2 KV heads, intermediate size
// 96, vocabulary 70.
nlohmann::json TinyConfig();

// All tensors of a LLaMA with this configuration, in float32: element i of tensor t is normal with
// deviation 0.2 (norms: around 1), and depends on t's name and i alone.
std::vector<TensorToWrite> RandomTensors(const nlohmann::json& config);

}  // namespace caravan
