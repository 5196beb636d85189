#include "gateway/triton/http/generate_json.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/infer_json.h"
#include "gateway/triton/http/json_text.h"
#include "gateway/triton/http/tensor_json.h"

namespace caravan {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// The Open Inference Protocol's name for what newer models call stop_words.
constexpr std::pair<const char*, const char*> kAliases[] = {{"stop", "stop_words"}};

// So that the shape holds `count` elements.
absl::StatusOr<Shape> FitShape(const TensorSpec& spec, int64_t count) {
  Shape shape = WireShape(spec);
  int64_t known = 1;
  for (const int64_t dimension : shape) known *= dimension < 0 ? 1 : dimension;
  const auto open = std::find(shape.rbegin(), shape.rend(), -1);
  const bool fits = count % known == 0 && (open != shape.rend() || count == known);
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("input '", spec.name, "' has ", count,
                                                   " elements, which does not fit its shape ",
                                                   ToString(WireShape(spec))));
  }
  if (open != shape.rend()) *open = count / known;
  for (int64_t& dimension : shape) dimension = dimension < 0 ? 1 : dimension;
  return shape;
}

absl::Status AddMember(const TritonModel& model, const std::string& name, const Json& value,
                       InferRequest* request) {
  const TensorSpec* spec = model.FindInput(name);
  for (const auto& [alias, input] : kAliases) {
    if (spec == nullptr && name == alias) spec = model.FindInput(input);
  }
  if (spec == nullptr) {
    ASSIGN_OR_RETURN(request->parameters[name],
                     ParseParameter(absl::StrCat("parameter '", name.substr(0, 256), "'"), value));
    return absl::OkStatus();
  }
  InferInput input;
  input.name = spec->name;
  input.datatype = NameOf(spec->datatype);
  ASSIGN_OR_RETURN(PackedJson packed, PackJson(spec->name, spec->datatype, value));
  ASSIGN_OR_RETURN(input.shape, FitShape(*spec, packed.count));
  input.data = std::move(packed.data);
  request->inputs.push_back(std::move(input));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InferRequest> ParseGenerate(const TritonModel& model, std::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  InferRequest request;
  for (const auto& [name, value] : json.items()) {
    if (value.is_null()) continue;
    if (name == "id") {
      if (!value.is_string()) {
        return absl::InvalidArgumentError(
            absl::StrCat("'id' must be a string, found ", Brief(value)));
      }
      request.id = value.get<std::string>();
    } else if (name == "parameters") {
      if (!value.is_object()) {
        return absl::InvalidArgumentError(
            absl::StrCat("'parameters' must be an object, found ", Brief(value)));
      }
      for (const auto& [parameter, inner] : value.items()) {
        if (!inner.is_null()) RETURN_IF_ERROR(AddMember(model, parameter, inner, &request));
      }
    } else {
      RETURN_IF_ERROR(AddMember(model, name, value, &request));
    }
  }
  return request;
}

absl::StatusOr<OrderedJson> WriteGenerate(const InferResponse& response) {
  OrderedJson json = OrderedJson::object();
  if (!response.id.empty()) json["id"] = response.id;
  json["model_name"] = response.model_name;
  json["model_version"] = response.model_version;
  for (const auto& [name, value] : response.parameters) json[name] = ToJson(value);
  for (const InferOutput& output : response.outputs) {
    ASSIGN_OR_RETURN(OrderedJson data, UnpackJson(output.name, output.datatype, output.data));
    json[output.name] = data.size() == 1 ? std::move(data[0]) : std::move(data);
  }
  return json;
}

}  // namespace caravan
