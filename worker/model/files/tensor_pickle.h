// The pickle in a torch file, read without running anything: only what describes tensors is known.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace caravan {

// A tensor as the pickle describes it: a view of a storage, sizes and strides in elements.
struct PickledTensor {
  std::string name;
  std::string storage;     // its entry under data/
  std::string dtype_name;  // as in TensorInfo
  int64_t storage_elements = 0;
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

// Interprets the opcodes (Python's pickletools) of a dictionary from names to tensors. Objects
// other than OrderedDict, torch's tensors, parameters and storages are refused by the name that the
// pickle gives them, other opcodes by their number and place; nothing is imported or called. `file`
// is named in errors, all of them INVALID_ARGUMENT. Numbers are not checked against one another.
absl::StatusOr<std::vector<PickledTensor>> ReadTensorPickle(std::string_view pickle,
                                                            const std::string& file);

}  // namespace caravan
