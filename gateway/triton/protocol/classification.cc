#include "gateway/triton/protocol/classification.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace caravan {
namespace {

template <typename Value>
void AppendClasses(std::string_view row, size_t count, std::string* data) {
  std::vector<size_t> order(row.size() / sizeof(Value));
  std::iota(order.begin(), order.end(), size_t{0});
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(),
                    [row](size_t a, size_t b) {
                      const auto of_a = ElementAt<Value>(row, a);
                      const auto of_b = ElementAt<Value>(row, b);
                      const auto above = [](Value x, Value y) {  // what is no number is least
                        return x > y || (y != y && x == x);
                      };
                      return above(of_a, of_b) || (!above(of_b, of_a) && a < b);
                    });
  for (size_t i = 0; i < count; ++i) {
    const std::string value = std::to_string(ElementAt<Value>(row, order[i]));
    AppendBytes(value + ":" + std::to_string(order[i]), data);
  }
}

}  // namespace

bool CanClassify(DataType datatype) {
  return datatype == DataType::kUint32 || datatype == DataType::kInt32 ||
         datatype == DataType::kFp32;
}

InferOutput Classify(const InferOutput& output, int64_t count) {
  CARAVAN_CHECK(CanClassify(output.datatype) && !output.shape.empty());
  const int64_t rows = output.shape[0];
  int64_t elements = 1;
  for (size_t i = 1; i < output.shape.size(); ++i) elements *= output.shape[i];
  const int64_t shown = std::min(count, elements);
  InferOutput classes;
  classes.name = output.name;
  classes.datatype = DataType::kBytes;
  classes.shape = {rows, shown};
  const size_t row_bytes = static_cast<size_t>(elements) * SizeOf(output.datatype);
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    const std::string_view data = std::string_view(output.data).substr(row * row_bytes, row_bytes);
    const auto number = static_cast<size_t>(shown);
    if (output.datatype == DataType::kFp32) {
      AppendClasses<float>(data, number, &classes.data);
    } else if (output.datatype == DataType::kInt32) {
      AppendClasses<int32_t>(data, number, &classes.data);
    } else {
      AppendClasses<uint32_t>(data, number, &classes.data);
    }
  }
  return classes;
}

}  // namespace caravan
