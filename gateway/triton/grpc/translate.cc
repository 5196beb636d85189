#include "gateway/triton/grpc/translate.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

using ParameterMap = google::protobuf::Map<std::string, inference::InferParameter>;

absl::StatusOr<InferParameters> FromProto(const ParameterMap& parameters, const std::string& of) {
  InferParameters out;
  for (const auto& [name, value] : parameters) {
    switch (value.parameter_choice_case()) {
      case inference::InferParameter::kBoolParam:
        out[name] = value.bool_param();
        break;
      case inference::InferParameter::kInt64Param:
        out[name] = value.int64_param();
        break;
      case inference::InferParameter::kStringParam:
        out[name] = value.string_param();
        break;
      case inference::InferParameter::kDoubleParam:
        out[name] = value.double_param();
        break;
      case inference::InferParameter::kUint64Param:
        out[name] = value.uint64_param();
        break;
      case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
        return absl::InvalidArgumentError(
            absl::StrCat("parameter '", name, "' of ", of, " has no value"));
    }
  }
  return out;
}

// Typed contents as packed elements of `Narrow`; false where one is out of its range.
template <typename Narrow, typename Field>
bool PackAs(const Field& values, std::string* data) {
  data->reserve(static_cast<size_t>(values.size()) * sizeof(Narrow));
  for (const auto value : values) {
    const auto narrow = static_cast<Narrow>(value);
    if (static_cast<decltype(value)>(narrow) != value && value == value) return false;
    AppendElement(narrow, data);
  }
  return true;
}

bool PackContents(DataType type, const inference::InferTensorContents& contents,
                  std::string* data) {
  switch (type) {
    case DataType::kBool:
      return PackAs<uint8_t>(contents.bool_contents(), data);
    case DataType::kInt8:
      return PackAs<int8_t>(contents.int_contents(), data);
    case DataType::kInt16:
      return PackAs<int16_t>(contents.int_contents(), data);
    case DataType::kInt32:
      return PackAs<int32_t>(contents.int_contents(), data);
    case DataType::kInt64:
      return PackAs<int64_t>(contents.int64_contents(), data);
    case DataType::kUint8:
      return PackAs<uint8_t>(contents.uint_contents(), data);
    case DataType::kUint16:
      return PackAs<uint16_t>(contents.uint_contents(), data);
    case DataType::kUint32:
      return PackAs<uint32_t>(contents.uint_contents(), data);
    case DataType::kUint64:
      return PackAs<uint64_t>(contents.uint64_contents(), data);
    case DataType::kFp32:
      return PackAs<float>(contents.fp32_contents(), data);
    case DataType::kFp64:
      return PackAs<double>(contents.fp64_contents(), data);
    case DataType::kBytes:
      for (const std::string& element : contents.bytes_contents()) AppendBytes(element, data);
      return true;
    default:
      return true;  // FP16 and BF16 have none; an unknown type is refused by its name
  }
}

// Gives each input its data, from the raw contents in their order or from its typed contents.
class ContentsReader {
 public:
  explicit ContentsReader(inference::ModelInferRequest* message) : message_(message) {}

  absl::Status Read(const inference::ModelInferRequest::InferInputTensor& tensor,
                    InferInput* input) {
    const bool in_region = input->parameters.contains(kSharedMemoryRegion);
    if (tensor.has_contents() && (message_->raw_input_contents_size() > 0 || in_region)) {
      return Invalid("contents field must not be specified when using ",
                     in_region ? "shared memory" : "raw_input_contents", " for '", input->name,
                     "' for model '", message_->model_name(), "'");
    }
    if (in_region) return absl::OkStatus();
    if (tensor.has_contents()) {
      if (PackContents(ParseDataType(input->datatype), tensor.contents(), &input->data)) {
        return absl::OkStatus();
      }
      return Invalid("contents of input '", input->name, "' have a value that ", input->datatype,
                     " can't hold");
    }
    if (next_raw_ >= message_->raw_input_contents_size()) {
      return Invalid("unable to find data for input tensor '", input->name, "' for model '",
                     message_->model_name(), "' in request.");
    }
    input->data = std::move(*message_->mutable_raw_input_contents(next_raw_++));
    return absl::OkStatus();
  }

  absl::Status CheckAllRead() const {
    if (next_raw_ == message_->raw_input_contents_size()) return absl::OkStatus();
    return Invalid("unexpected number of raw_input_contents ", message_->raw_input_contents_size(),
                   ", expecting ", next_raw_, " for model '", message_->model_name(), "'");
  }

 private:
  template <typename... Parts>
  absl::Status Invalid(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(RequestIdPrefix(message_->id()), parts...));
  }

  inference::ModelInferRequest* const message_;
  int next_raw_ = 0;
};

void ToProto(const DurationStatistic& duration, inference::StatisticDuration* out) {
  out->set_count(duration.count);
  out->set_ns(duration.ns);
}

}  // namespace

absl::StatusOr<InferRequest> ParseInferRequest(const grpc::ByteBuffer& bytes, const CallInfo& call,
                                               bool streaming, std::string* id) {
  inference::ModelInferRequest message;
  const absl::Status status = Parse(bytes, &message);
  *id = FindInvalidUtf8(message.id()) == std::string::npos ? message.id() : "";
  RETURN_IF_ERROR(status);
  InferRequest request;
  request.model_name = message.model_name();
  request.model_version = message.model_version();
  request.id = message.id();
  request.streaming = streaming;
  request.client = call.client;
  request.request_id = call.request_id;
  request.traceparent = call.traceparent;
  request.arrival = std::chrono::steady_clock::now();
  request.deadline = EarlierDeadline(request.arrival, 0, call.deadline);
  ASSIGN_OR_RETURN(request.parameters, FromProto(message.parameters(), "the request"));
  ContentsReader reader(&message);
  for (const auto& tensor : message.inputs()) {
    InferInput input;
    input.name = tensor.name();
    input.datatype = tensor.datatype();
    input.shape.assign(tensor.shape().begin(), tensor.shape().end());
    ASSIGN_OR_RETURN(input.parameters,
                     FromProto(tensor.parameters(), absl::StrCat("input '", input.name, "'")));
    RETURN_IF_ERROR(reader.Read(tensor, &input));
    request.inputs.push_back(std::move(input));
  }
  RETURN_IF_ERROR(reader.CheckAllRead());
  for (const auto& tensor : message.outputs()) {
    InferRequestedOutput output;
    output.name = tensor.name();
    ASSIGN_OR_RETURN(output.parameters,
                     FromProto(tensor.parameters(), absl::StrCat("output '", output.name, "'")));
    request.outputs.push_back(std::move(output));
  }
  return request;
}

inference::ModelStreamInferResponse ErrorResponse(const std::string& id,
                                                  const absl::Status& status) {
  inference::ModelStreamInferResponse message;
  message.set_error_message(std::string(status.message()));
  message.mutable_infer_response()->set_id(id);
  (*message.mutable_infer_response()->mutable_parameters())[kFinalResponse].set_bool_param(true);
  return message;
}

inference::ModelMetadataResponse ModelMetadataOf(const TritonModel& model) {
  inference::ModelMetadataResponse message;
  message.set_name(model.name);
  *message.add_versions() = std::string(kTritonModelVersion);
  message.set_platform(model.platform);
  const auto fill = [](const TensorSpec& spec, auto* tensor) {
    tensor->set_name(spec.name);
    tensor->set_datatype(NameOf(spec.datatype));
    const Shape shape = WireShape(spec);
    tensor->mutable_shape()->Assign(shape.begin(), shape.end());
  };
  for (const TensorSpec& input : model.inputs) {
    if (!input.hidden) fill(input, message.add_inputs());
  }
  for (const TensorSpec& output : model.outputs) {
    if (!output.hidden) fill(output, message.add_outputs());
  }
  return message;
}

inference::ModelStatistics ToProto(const ModelStatistics& statistics) {
  inference::ModelStatistics message;
  message.set_name(statistics.name);
  message.set_version(statistics.version);
  message.set_last_inference(statistics.last_inference_ms);
  message.set_inference_count(statistics.inference_count);
  message.set_execution_count(statistics.execution_count);
  inference::InferStatistics* infer = message.mutable_inference_stats();
  ToProto(statistics.success, infer->mutable_success());
  ToProto(statistics.fail, infer->mutable_fail());
  ToProto(statistics.queue, infer->mutable_queue());
  ToProto(statistics.compute_input, infer->mutable_compute_input());
  ToProto(statistics.compute_infer, infer->mutable_compute_infer());
  ToProto(statistics.compute_output, infer->mutable_compute_output());
  infer->mutable_cache_hit();
  infer->mutable_cache_miss();
  for (const auto& [rows, batch] : statistics.batches) {
    inference::InferBatchStatistics* out = message.add_batch_stats();
    out->set_batch_size(static_cast<uint64_t>(rows));
    ToProto(batch.compute_input, out->mutable_compute_input());
    ToProto(batch.compute_infer, out->mutable_compute_infer());
    ToProto(batch.compute_output, out->mutable_compute_output());
  }
  for (const auto& [index, response] : statistics.responses) {
    inference::InferResponseStatistics& out =
        (*message.mutable_response_stats())[std::to_string(index)];
    ToProto(response.compute_infer, out.mutable_compute_infer());
    ToProto(response.compute_output, out.mutable_compute_output());
    ToProto(response.success, out.mutable_success());
    ToProto(response.fail, out.mutable_fail());
    ToProto(response.empty_response, out.mutable_empty_response());
    ToProto(response.cancel, out.mutable_cancel());
  }
  return message;
}

InferParameters FromProto(
    const google::protobuf::Map<std::string, inference::ModelRepositoryParameter>& parameters) {
  InferParameters out;
  for (const auto& [name, value] : parameters) {
    switch (value.parameter_choice_case()) {
      case inference::ModelRepositoryParameter::kBoolParam:
        out[name] = value.bool_param();
        break;
      case inference::ModelRepositoryParameter::kInt64Param:
        out[name] = value.int64_param();
        break;
      case inference::ModelRepositoryParameter::kStringParam:
        out[name] = value.string_param();
        break;
      default:
        out[name] = value.bytes_param();
    }
  }
  return out;
}

TraceSettingValues FromProto(const inference::TraceSettingRequest& request) {
  TraceSettingValues values;
  for (const auto& [name, value] : request.settings()) {
    values[name].assign(value.value().begin(), value.value().end());
  }
  return values;
}

inference::TraceSettingResponse ToProto(const TraceSettingValues& values) {
  inference::TraceSettingResponse message;
  for (const auto& [name, texts] : values) {
    auto& setting = (*message.mutable_settings())[name];
    for (const std::string& text : texts) setting.add_value(text);
  }
  return message;
}

absl::StatusOr<LogSettingValues> FromProto(const inference::LogSettingsRequest& request) {
  using Value = inference::LogSettingsRequest::SettingValue;
  LogSettingValues values;
  for (const auto& [name, value] : request.settings()) {
    switch (value.parameter_choice_case()) {
      case Value::kBoolParam:
        values[name] = value.bool_param();
        break;
      case Value::kUint32Param:
        values[name] = value.uint32_param();
        break;
      case Value::kStringParam:
        values[name] = value.string_param();
        break;
      case Value::PARAMETER_CHOICE_NOT_SET:
        return absl::InvalidArgumentError(absl::StrCat("log setting '", name, "' has no value"));
    }
  }
  return values;
}

inference::LogSettingsResponse ToProto(const LogSettingValues& values) {
  inference::LogSettingsResponse message;
  for (const auto& [name, value] : values) {
    auto& setting = (*message.mutable_settings())[name];
    if (const auto* as_bool = std::get_if<bool>(&value)) {
      setting.set_bool_param(*as_bool);
    } else if (const auto* as_number = std::get_if<uint32_t>(&value)) {
      setting.set_uint32_param(*as_number);
    } else {
      setting.set_string_param(std::get<std::string>(value));
    }
  }
  return message;
}

}  // namespace caravan
