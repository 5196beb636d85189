#include "gateway/triton/protocol/request_check.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "gateway/triton/protocol/classification.h"

namespace caravan {
namespace {

constexpr size_t kMaxNameBytes = 1024;
constexpr int64_t kMaxStrings = 1 << 20;  // in one tensor: each costs memory, even an empty one

bool IsInteger(DataType type) {
  return type == DataType::kInt32 || type == DataType::kUint32 || type == DataType::kInt64 ||
         type == DataType::kUint64;
}

bool Matches(const Shape& shape, const Shape& dims) {
  if (shape.size() != dims.size() + 1) return false;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] >= 0 && shape[i + 1] != dims[i]) return false;
  }
  return true;
}

}  // namespace

std::string RequestIdPrefix(const std::string& id) {
  return absl::StrCat("[request id: ", id.empty() ? "<id_unknown>" : id, "] ");
}

absl::Status WithRequestId(const std::string& id, const absl::Status& status) {
  if (status.ok() || absl::StartsWith(status.message(), "[request id: ")) return status;
  return {status.code(), absl::StrCat(RequestIdPrefix(id), status.message())};
}

const CheckedInput* CheckedRequest::Find(std::string_view name) const {
  const auto found = inputs_.find(name);
  return found == inputs_.end() ? nullptr : &found->second;
}

bool CheckedRequest::Wants(std::string_view output) const {
  if (!outputs_.empty()) return outputs_.contains(output);
  const TensorSpec* spec = model_->FindOutput(output);
  if (output == "OUTPUT_0") return !uses_newer_names();
  if (output == "text_output") return uses_newer_names();
  return spec != nullptr;
}

const SharedMemoryUse* CheckedRequest::PlaceOf(std::string_view output) const {
  const auto found = outputs_.find(output);
  if (found == outputs_.end() || !found->second.place.has_value()) return nullptr;
  return &*found->second.place;
}

int64_t CheckedRequest::ClassesOf(std::string_view output) const {
  const auto found = outputs_.find(output);
  return found == outputs_.end() ? 0 : found->second.classes;
}

absl::StatusOr<std::optional<uint64_t>> CheckedRequest::Unsigned(const std::string& name,
                                                                 int64_t row) const {
  const CheckedInput* input = Find(name);
  if (input == nullptr) return std::nullopt;
  const size_t i = static_cast<size_t>(row);
  int64_t value = 0;
  switch (input->datatype) {
    case DataType::kUint32:
      return ElementAt<uint32_t>(input->data, i);
    case DataType::kUint64:
      return ElementAt<uint64_t>(input->data, i);
    case DataType::kInt32:
      value = ElementAt<int32_t>(input->data, i);
      break;
    default:
      value = ElementAt<int64_t>(input->data, i);
  }
  if (value >= 0) return static_cast<uint64_t>(value);
  return absl::InvalidArgumentError(
      absl::StrCat(name, " of row ", row, " is ", value, "; it must not be negative"));
}

absl::StatusOr<std::optional<bool>> CheckedRequest::Flag(const std::string& name) const {
  if (const std::optional<bool> value = Scalar<bool>(name, 0)) return value;
  const auto parameter = request_.parameters.find(name);
  if (parameter == request_.parameters.end()) return std::nullopt;
  if (const auto* value = std::get_if<bool>(&parameter->second)) return *value;
  return absl::InvalidArgumentError(
      absl::StrCat("parameter '", name, "' has the wrong kind; it takes a bool"));
}

class RequestChecker {
 public:
  RequestChecker(const TritonModel& model, int max_batch_size, InferRequest request,
                 SharedMemoryReader read_shared_memory)
      : model_(model), max_batch_size_(max_batch_size), read_shared_memory_(read_shared_memory) {
    checked_.model_ = &model;
    inputs_ = std::move(request.inputs);
    request.inputs.clear();
    checked_.request_ = std::move(request);
  }

  absl::StatusOr<CheckedRequest> Run() {
    RETURN_IF_ERROR(CheckParameters());
    RETURN_IF_ERROR(CheckNames());
    for (InferInput& input : inputs_) RETURN_IF_ERROR(CheckInput(&input));
    RETURN_IF_ERROR(CheckOutputs());
    return std::move(checked_);
  }

 private:
  template <typename... Parts>
  absl::Status Invalid(const Parts&... parts) const {
    return absl::InvalidArgumentError(
        absl::StrCat(RequestIdPrefix(checked_.request_.id), parts...));
  }
  absl::Status WithId(const absl::Status& status) const {
    return status.ok() ? status
                       : absl::Status(status.code(), RequestIdPrefix(checked_.request_.id) +
                                                         std::string(status.message()));
  }

  absl::Status CheckParameters() const {
    for (const auto& [name, value] : checked_.request_.parameters) {
      if (name == kEnableEmptyFinalResponse) {
        if (std::holds_alternative<bool>(value)) continue;
        return Invalid("parameter '", name, "' has the wrong kind; it takes a bool");
      }
      if (absl::StartsWith(name, "triton_")) {
        return Invalid("parameter keys starting with 'triton_' are reserved for Triton usage: '",
                       name, "' is not known");
      }
      if (name == "priority" && std::holds_alternative<int64_t>(value) &&
          std::get<int64_t>(value) < 0) {
        return Invalid("priority is ", std::get<int64_t>(value), "; it must not be negative");
      }
      const bool is_number =
          std::holds_alternative<int64_t>(value) || std::holds_alternative<uint64_t>(value);
      if ((name == "priority" || name == "timeout") && !is_number) {
        return Invalid("parameter '", name, "' has the wrong kind; it takes an int64");
      }
      if ((name == "sequence_start" || name == "sequence_end") &&
          !std::holds_alternative<bool>(value)) {
        return Invalid("parameter '", name, "' has the wrong kind; it takes a bool");
      }
      if (name == "sequence_id" && !is_number && !std::holds_alternative<std::string>(value)) {
        return Invalid("parameter '", name, "' has the wrong kind; it takes an int64 or a string");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckNames() const {
    std::vector<std::string_view> given;
    for (const InferInput& input : inputs_) {
      if (model_.FindInput(input.name) == nullptr) {
        return Invalid("unexpected inference input '", input.name.substr(0, kMaxNameBytes),
                       "' for model '", model_.name, "'");
      }
      if (std::find(given.begin(), given.end(), input.name) != given.end()) {
        return Invalid("input '", input.name, "' already exists in request");
      }
      given.push_back(input.name);
    }
    const bool newer = std::find(given.begin(), given.end(), "text_input") != given.end();
    std::vector<std::string> missing;
    size_t num_required = 0;
    size_t num_all = 0;
    for (const TensorSpec& spec : model_.inputs) {
      if (spec.hidden) continue;
      ++num_all;
      if (spec.optional) continue;
      ++num_required;
      const bool is_given = std::find(given.begin(), given.end(), spec.name) != given.end();
      if (newer && is_given) {
        return Invalid("'text_input' and '", spec.name, "' exclude each other: give one set of ",
                       "names");
      }
      if (!newer && !is_given) missing.push_back(absl::StrCat("'", spec.name, "'"));
    }
    if (missing.empty()) return absl::OkStatus();
    const auto quote = [](std::string* out, std::string_view name) {
      out->append("'").append(name).append("'");
    };
    return Invalid("expected number of inputs between ", num_required, " and ", num_all,
                   " but got ", given.size(), " inputs for model '", model_.name,
                   "'. Got input(s) [", absl::StrJoin(given, ", ", quote),
                   "], but missing required input(s) [", absl::StrJoin(missing, ", "),
                   "]. Please provide all required input(s).");
  }

  absl::Status CheckDataType(const InferInput& input, const TensorSpec& spec,
                             DataType datatype) const {
    if (datatype == spec.datatype || (spec.any_integer && IsInteger(datatype))) {
      return absl::OkStatus();
    }
    return Invalid("inference input '", input.name, "' data-type is '", NameOf(datatype),
                   "', but model '", model_.name, "' expects '", NameOf(spec.datatype), "'");
  }

  absl::Status CheckShape(const TensorSpec& spec, InferInput* input) {
    // Clients of models without a batch dimension send [1] for what is [1, 1] here.
    if (spec.hidden && input->shape.size() == spec.dims.size()) {
      input->shape.insert(spec.dims == Shape{1} ? input->shape.end() : input->shape.begin(), 1);
    }
    if (!Matches(input->shape, spec.dims)) {
      return Invalid("unexpected shape for input '", input->name, "' for model '", model_.name,
                     "'. Expected ", ToString(WireShape(spec)), ", got ", ToString(input->shape),
                     ". NOTE: Setting a non-zero max_batch_size in the model config requires a ",
                     "batch dimension to be prepended to each input shape. If you want to specify ",
                     "the full shape including the batch dim in your input dims config, try ",
                     "setting max_batch_size to zero. See the model configuration docs for more ",
                     "info on max_batch_size.");
    }
    const int64_t rows = input->shape[0];
    if (checked_.rows_ != 0 && rows != checked_.rows_) {
      return Invalid("input '", input->name, "' batch size does not match other inputs for '",
                     model_.name, "'");
    }
    if (rows > max_batch_size_) {
      return Invalid("inference request batch-size must be <= ", max_batch_size_, " for '",
                     model_.name, "'");
    }
    if (rows < 1) {
      return Invalid("input '", input->name, "' has batch size ", rows, " for '", model_.name,
                     "'; it must be at least 1");
    }
    checked_.rows_ = rows;
    return absl::OkStatus();
  }

  absl::Status CheckInput(InferInput* input) {
    const TensorSpec& spec = *model_.FindInput(input->name);
    const DataType datatype = ParseDataType(input->datatype);
    RETURN_IF_ERROR(CheckDataType(*input, spec, datatype));
    const absl::StatusOr<int64_t> count = NumElements(input->name, input->shape);
    if (!count.ok()) return WithId(count.status());
    if (datatype == DataType::kBytes && *count > kMaxStrings) {
      return Invalid("shape ", ToString(input->shape), " of '", input->name, "' has more than ",
                     kMaxStrings, " strings");
    }
    RETURN_IF_ERROR(CheckShape(spec, input));
    absl::StatusOr<std::optional<SharedMemoryUse>> place =
        SharedMemoryUseOf(input->name, input->parameters);
    if (!place.ok()) return WithId(place.status());
    if (place->has_value()) {
      const size_t expected = static_cast<size_t>(*count) * SizeOf(datatype);
      if (datatype != DataType::kBytes && (*place)->byte_size != expected) {
        return Invalid("input byte size mismatch for input '", input->name, "'. Expected ",
                       expected, ", got ", (*place)->byte_size);
      }
      absl::StatusOr<std::string> data = read_shared_memory_(**place);
      if (!data.ok()) {
        return absl::Status(data.status().code(),
                            absl::StrCat(RequestIdPrefix(checked_.request_.id), "input '",
                                         input->name, "': ", data.status().message()));
      }
      input->data = *std::move(data);
    }
    RETURN_IF_ERROR(WithId(CheckData(input->name, datatype, *count, input->data)));
    checked_.inputs_[input->name] = {datatype, std::move(input->shape), std::move(input->data)};
    return absl::OkStatus();
  }

  absl::Status CheckOutputs() {
    for (const InferRequestedOutput& output : checked_.request_.outputs) {
      if (model_.FindOutput(output.name) == nullptr) {
        return Invalid("unexpected inference output '", output.name.substr(0, kMaxNameBytes),
                       "' for model '", model_.name, "'");
      }
      absl::StatusOr<std::optional<SharedMemoryUse>> place =
          SharedMemoryUseOf(output.name, output.parameters);
      if (!place.ok()) return WithId(place.status());
      const bool in_region = place->has_value();
      CheckedRequest::RequestedOutput& requested = checked_.outputs_[output.name];
      requested.place = *std::move(place);
      const auto classes = output.parameters.find(kClassification);
      if (classes == output.parameters.end()) continue;
      if (in_region) {
        return Invalid("output '", output.name, "': ", kClassification, " and ",
                       kSharedMemoryRegion, " exclude each other");
      }
      RETURN_IF_ERROR(CheckClasses(output.name, classes->second, &requested.classes));
    }
    return absl::OkStatus();
  }

  absl::Status CheckClasses(const std::string& output, const InferParameter& value,
                            int64_t* classes) const {
    const DataType datatype = model_.FindOutput(output)->datatype;
    if (!CanClassify(datatype)) {
      return Invalid("class result not available for output '", output,
                     "' due to unsupported type '", NameOf(datatype), "'");
    }
    const auto* count = std::get_if<int64_t>(&value);
    if (count == nullptr || *count < 1 || *count > kMaxClasses) {
      return Invalid("invalid value for '", kClassification, "' parameter of '", output,
                     "', expected an int64 in [1, ", kMaxClasses, "]");
    }
    *classes = *count;
    return absl::OkStatus();
  }

  const TritonModel& model_;
  const int max_batch_size_;
  const SharedMemoryReader read_shared_memory_;
  CheckedRequest checked_;
  std::vector<InferInput> inputs_;
};

absl::StatusOr<CheckedRequest> CheckRequest(const TritonModel& model, int max_batch_size,
                                            InferRequest request,
                                            SharedMemoryReader read_shared_memory) {
  return RequestChecker(model, max_batch_size, std::move(request), read_shared_memory).Run();
}

}  // namespace caravan
