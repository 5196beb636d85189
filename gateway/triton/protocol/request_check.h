// What the catalogue demands of a request's tensors, with Triton's error texts.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "gateway/triton/protocol/infer_message.h"
#include "gateway/triton/protocol/model_catalog.h"

namespace caravan {

// One input whose datatype, shape and data agree, with each other and with the catalogue.
struct CheckedInput {
  DataType datatype = DataType::kInvalid;
  Shape shape;  // with the batch dimension
  std::string data;
};

// Only CheckRequest makes one.
class CheckedRequest {
 public:
  const TritonModel& model() const { return *model_; }
  // Without the inputs, which Find has.
  const InferRequest& request() const { return request_; }
  int64_t rows() const { return rows_; }
  // Tensors of newer clients (text_input, …) in place of the ensemble's own.
  bool uses_newer_names() const { return Find("text_input") != nullptr; }

  // nullptr: not given.
  const CheckedInput* Find(std::string_view name) const;
  bool Wants(std::string_view output) const;
  // Where a requested output goes; nullptr: into the message.
  const SharedMemoryUse* PlaceOf(std::string_view output) const;
  // How many of its greatest elements stand for a requested output (classification.h); 0: it stands
  // for itself.
  int64_t ClassesOf(std::string_view output) const;

  // One value of a scalar tensor ([rows, 1]); nullopt where it is not given. REQUIRES: the
  // catalogue gives the tensor this type.
  template <typename Value>
  std::optional<Value> Scalar(std::string_view name, int64_t row) const {
    const CheckedInput* input = Find(name);
    if (input == nullptr) return std::nullopt;
    if constexpr (std::is_same_v<Value, bool>) {
      return input->data[static_cast<size_t>(row)] != 0;
    } else {
      return ElementAt<Value>(input->data, static_cast<size_t>(row));
    }
  }
  // Of a tensor that takes any integer; INVALID_ARGUMENT below 0.
  absl::StatusOr<std::optional<uint64_t>> Unsigned(const std::string& name, int64_t row) const;
  // A boolean given as a tensor (row 0 rules) or as a request parameter; INVALID_ARGUMENT for a
  // parameter of another kind.
  absl::StatusOr<std::optional<bool>> Flag(const std::string& name) const;

 private:
  friend class RequestChecker;

  const TritonModel* model_ = nullptr;
  InferRequest request_;
  int64_t rows_ = 0;
  std::map<std::string, CheckedInput, std::less<>> inputs_;
  struct RequestedOutput {
    std::optional<SharedMemoryUse> place;
    int64_t classes = 0;
  };
  std::map<std::string, RequestedOutput, std::less<>> outputs_;
};

using SharedMemoryReader = absl::FunctionRef<absl::StatusOr<std::string>(const SharedMemoryUse&)>;

// INVALID_ARGUMENT names the tensor. `model` outlives the result.
absl::StatusOr<CheckedRequest> CheckRequest(const TritonModel& model, int max_batch_size,
                                            InferRequest request,
                                            SharedMemoryReader read_shared_memory);

// "[request id: 7] ", with <id_unknown> for a request without one.
std::string RequestIdPrefix(const std::string& id);
// The same error, with the prefix where it is not there yet.
absl::Status WithRequestId(const std::string& id, const absl::Status& status);

}  // namespace caravan
