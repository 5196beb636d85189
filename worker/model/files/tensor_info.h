// Tensors as files hold them, whatever the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace caravan {

// A block of a matrix, rows [first_row, first_row + rows) by columns [first_col, first_col + cols):
// element (r, c) of the block lies at data + (r · row_stride + c · col_stride) elements.
struct TensorPart {
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t first_col = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  int64_t row_stride = 0;
  int64_t col_stride = 1;
};

// A tensor within mapped files. Where `parts` is empty its elements lie one behind another from
// `data` on, the last index running fastest; otherwise it is a matrix of these parts, which tile
// it.
struct TensorInfo {
  std::string name;
  std::string dtype_name;      // as safetensors names it: "F32", "BF16", "I64" …
  std::vector<int64_t> shape;  // of at most 8 dimensions
  const std::byte* data = nullptr;
  int64_t bytes = 0;  // of all elements
  std::vector<TensorPart> parts;

  std::optional<DType> dtype() const;  // none where no operator takes it
  std::string ShapeText() const;       // "[32, 64]"
};

// Bytes of an element of this type; 0 where the name is unknown.
int64_t ElementBytes(const std::string& dtype_name);

// One file of a checkpoint, or a folder of files that make sense only together.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual const std::string& path() const = 0;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
};

}  // namespace caravan
