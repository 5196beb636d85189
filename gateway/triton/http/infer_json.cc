#include "gateway/triton/http/infer_json.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/json_text.h"
#include "gateway/triton/http/tensor_json.h"

namespace caravan {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr char kBinaryDataSize[] = "binary_data_size";
constexpr char kBinaryData[] = "binary_data";
constexpr char kBinaryDataOutput[] = "binary_data_output";
constexpr size_t kMaxTensors = 1024;
constexpr size_t kMaxDimensions = 16;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::StatusOr<std::string> RequiredString(const Json& object, const char* name,
                                           const std::string& where) {
  const Json* value = FindMember(object, name);
  if (value == nullptr) return Invalid("'", name, "' is missing in ", where);
  if (!value->is_string()) {
    return Invalid("'", name, "' in ", where, " must be a string, found ", Brief(*value));
  }
  return value->get<std::string>();
}

absl::StatusOr<InferParameters> ParseParameters(const Json& object, const std::string& where) {
  InferParameters parameters;
  const Json* member = FindMember(object, "parameters");
  if (member == nullptr) return parameters;
  if (!member->is_object()) {
    return Invalid("'parameters' in ", where, " must be an object, found ", Brief(*member));
  }
  for (const auto& [name, value] : member->items()) {
    ASSIGN_OR_RETURN(parameters[name],
                     ParseParameter(absl::StrCat("parameter '", name, "' in ", where), value));
  }
  return parameters;
}

// Takes a boolean out of the parameters; nullopt where it is not there.
absl::StatusOr<std::optional<bool>> TakeBool(const char* name, const std::string& where,
                                             InferParameters* parameters) {
  const auto found = parameters->find(name);
  if (found == parameters->end()) return std::nullopt;
  const bool* value = std::get_if<bool>(&found->second);
  if (value == nullptr) return Invalid("parameter '", name, "' in ", where, " must be a bool");
  const bool taken = *value;
  parameters->erase(found);
  return taken;
}

absl::StatusOr<Shape> ParseShape(const Json& input, const std::string& where) {
  const Json* member = FindMember(input, "shape");
  if (member == nullptr) return Invalid("'shape' is missing in ", where);
  if (!member->is_array()) {
    return Invalid("'shape' in ", where, " must be an array, found ", Brief(*member));
  }
  if (member->size() > kMaxDimensions) {
    return Invalid("'shape' in ", where, " has ", member->size(), " dimensions, the limit is ",
                   kMaxDimensions);
  }
  Shape shape;
  for (const Json& dimension : *member) {
    const bool fits =
        dimension.is_number_integer() &&
        (!dimension.is_number_unsigned() ||
         dimension.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    if (!fits) return Invalid("'shape' in ", where, " has a dimension ", Brief(dimension));
    shape.push_back(dimension.get<int64_t>());
  }
  return shape;
}

class InferParser {
 public:
  explicit InferParser(std::string_view binary) : binary_(binary) {}

  absl::StatusOr<ParsedInfer> Run(const Json& json) {
    const Json* id = FindMember(json, "id");
    if (id != nullptr) {
      if (!id->is_string()) return Invalid("'id' must be a string, found ", Brief(*id));
      parsed_.request.id = id->get<std::string>();
    }
    ASSIGN_OR_RETURN(parsed_.request.parameters, ParseParameters(json, "the request"));
    ASSIGN_OR_RETURN(const std::optional<bool> binary,
                     TakeBool(kBinaryDataOutput, "the request", &parsed_.request.parameters));
    parsed_.form.binary = binary.value_or(false);
    RETURN_IF_ERROR(ForEach(json, "inputs", &InferParser::AddInput));
    if (parsed_.request.inputs.empty()) return Invalid("'inputs' is missing in the request");
    RETURN_IF_ERROR(ForEach(json, "outputs", &InferParser::AddOutput));
    if (!binary_.empty()) {
      return Invalid("unexpected additional input data: ", binary_.size(),
                     " bytes follow the last input's binary data");
    }
    return std::move(parsed_);
  }

 private:
  using Adder = absl::Status (InferParser::*)(const Json&, const std::string&);

  absl::Status ForEach(const Json& json, const char* name, Adder add) {
    const Json* list = FindMember(json, name);
    if (list == nullptr) return absl::OkStatus();
    if (!list->is_array()) return Invalid("'", name, "' must be an array, found ", Brief(*list));
    if (list->size() > kMaxTensors) {
      return Invalid("'", name, "' has ", list->size(), " tensors, the limit is ", kMaxTensors);
    }
    for (size_t i = 0; i < list->size(); ++i) {
      const Json& item = (*list)[i];
      const std::string where = absl::StrCat(name, "[", i, "]");
      if (!item.is_object()) return Invalid(where, " must be an object, found ", Brief(item));
      RETURN_IF_ERROR((this->*add)(item, where));
    }
    return absl::OkStatus();
  }

  absl::Status AddInput(const Json& item, const std::string& position) {
    InferInput input;
    ASSIGN_OR_RETURN(input.name, RequiredString(item, "name", position));
    const std::string where = absl::StrCat("input '", input.name.substr(0, 256), "'");
    ASSIGN_OR_RETURN(input.datatype, RequiredString(item, "datatype", where));
    ASSIGN_OR_RETURN(input.shape, ParseShape(item, where));
    ASSIGN_OR_RETURN(input.parameters, ParseParameters(item, where));
    const Json* data = FindMember(item, "data");
    const auto binary_size = input.parameters.find(kBinaryDataSize);
    const bool has_binary = binary_size != input.parameters.end();
    const bool is_shared = input.parameters.contains(kSharedMemoryRegion);
    if ((data != nullptr) + has_binary + is_shared > 1) {
      return Invalid(where, " has its data in more than one of 'data', '", kBinaryDataSize,
                     "' and '", kSharedMemoryRegion, "'");
    }
    if (has_binary) {
      RETURN_IF_ERROR(TakeBinary(binary_size->second, where, &input.data));
      input.parameters.erase(binary_size);
    } else if (data != nullptr) {
      RETURN_IF_ERROR(PackData(*data, where, &input));
    } else if (!is_shared) {
      return Invalid("unable to find data for ", where, ": one of 'data', '", kBinaryDataSize,
                     "' or '", kSharedMemoryRegion, "' must be given");
    }
    parsed_.request.inputs.push_back(std::move(input));
    return absl::OkStatus();
  }

  static absl::Status PackData(const Json& data, const std::string& where, InferInput* input) {
    const DataType type = ParseDataType(input->datatype);
    if (type == DataType::kInvalid) {
      return Invalid(where, " has the unknown datatype '", input->datatype.substr(0, 64), "'");
    }
    if (!data.is_array()) {
      return Invalid("'data' in ", where, " must be an array, found ", Brief(data));
    }
    ASSIGN_OR_RETURN(const int64_t expected, NumElements(input->name, input->shape));
    ASSIGN_OR_RETURN(PackedJson packed, PackJson(input->name, type, data));
    if (packed.count != expected) {
      return Invalid(where, " has ", packed.count, " elements in 'data', but its shape ",
                     ToString(input->shape), " has ", expected);
    }
    input->data = std::move(packed.data);
    return absl::OkStatus();
  }

  absl::Status TakeBinary(const InferParameter& size, const std::string& where, std::string* data) {
    const auto* bytes = std::get_if<int64_t>(&size);
    if (bytes == nullptr || *bytes < 0) {
      return Invalid("parameter '", kBinaryDataSize, "' in ", where,
                     " must be an integer that is not negative");
    }
    if (static_cast<uint64_t>(*bytes) > binary_.size()) {
      return Invalid("'", kBinaryDataSize, "' in ", where, " is ", *bytes, ", but only ",
                     binary_.size(), " bytes are left behind the JSON");
    }
    *data = binary_.substr(0, static_cast<size_t>(*bytes));
    binary_.remove_prefix(static_cast<size_t>(*bytes));
    return absl::OkStatus();
  }

  absl::Status AddOutput(const Json& item, const std::string& position) {
    InferRequestedOutput output;
    ASSIGN_OR_RETURN(output.name, RequiredString(item, "name", position));
    const std::string where = absl::StrCat("output '", output.name.substr(0, 256), "'");
    ASSIGN_OR_RETURN(output.parameters, ParseParameters(item, where));
    ASSIGN_OR_RETURN(const std::optional<bool> binary,
                     TakeBool(kBinaryData, where, &output.parameters));
    if (binary.has_value()) parsed_.form.outputs[output.name] = *binary;
    parsed_.request.outputs.push_back(std::move(output));
    return absl::OkStatus();
  }

  std::string_view binary_;  // what inputs have not taken
  ParsedInfer parsed_;
};

OrderedJson ParametersJson(const InferParameters& parameters) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [name, value] : parameters) json[name] = ToJson(value);
  return json;
}

}  // namespace

bool OutputForm::IsBinary(const std::string& output) const {
  const auto found = outputs.find(output);
  return found == outputs.end() ? binary : found->second;
}

absl::StatusOr<InferParameter> ParseParameter(const std::string& where, const Json& value) {
  if (value.is_boolean()) return InferParameter(value.get<bool>());
  if (value.is_string()) return InferParameter(value.get<std::string>());
  if (value.is_number_float()) return InferParameter(value.get<double>());
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return InferParameter(number);
    }
    return InferParameter(static_cast<int64_t>(number));
  }
  if (value.is_number_integer()) return InferParameter(value.get<int64_t>());
  return Invalid(where, " must be a bool, a number or a string, found ", Brief(value));
}

OrderedJson ToJson(const InferParameter& parameter) {
  return std::visit([](const auto& value) { return OrderedJson(value); }, parameter);
}

absl::StatusOr<ParsedInfer> ParseInfer(std::string_view body, std::optional<size_t> header_length) {
  if (header_length.has_value() && *header_length > body.size()) {
    return Invalid(kInferHeaderLength, " is ", *header_length, ", but the body has only ",
                   body.size(), " bytes");
  }
  const size_t json_bytes = header_length.value_or(body.size());
  ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body.substr(0, json_bytes)));
  return InferParser(body.substr(json_bytes)).Run(json);
}

absl::StatusOr<HttpResponse> WriteInfer(const InferResponse& response, const OutputForm& form) {
  OrderedJson json = OrderedJson::object();
  if (!response.id.empty()) json["id"] = response.id;
  json["model_name"] = response.model_name;
  json["model_version"] = response.model_version;
  if (!response.parameters.empty()) json["parameters"] = ParametersJson(response.parameters);
  OrderedJson outputs = OrderedJson::array();
  std::string binary;
  bool has_binary = false;
  for (const InferOutput& output : response.outputs) {
    OrderedJson item = OrderedJson::object();
    item["name"] = output.name;
    item["datatype"] = NameOf(output.datatype);
    item["shape"] = output.shape;
    OrderedJson parameters = ParametersJson(output.parameters);
    const bool is_shared = output.parameters.contains(kSharedMemoryRegion);
    if (!is_shared && form.IsBinary(output.name)) {
      parameters[kBinaryDataSize] = output.data.size();
      binary.append(output.data);
      has_binary = true;
    }
    if (!parameters.empty()) item["parameters"] = std::move(parameters);
    if (!is_shared && !form.IsBinary(output.name)) {
      ASSIGN_OR_RETURN(item["data"], UnpackJson(output.name, output.datatype, output.data));
    }
    outputs.push_back(std::move(item));
  }
  json["outputs"] = std::move(outputs);
  HttpResponse answer;
  // Nothing else is: the official asyncio client asks for compression always and expects it here
  // alone.
  answer.compressible = true;
  answer.body = ToText(json);
  answer.content_type = has_binary ? "application/octet-stream" : "application/json";
  if (has_binary) {
    answer.headers.push_back({kInferHeaderLength, std::to_string(answer.body.size())});
    answer.body.append(binary);
  }
  return answer;
}

}  // namespace caravan
