#include "gateway/triton/http/management.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/http_error.h"
#include "gateway/triton/http/infer_json.h"
#include "gateway/triton/http/json_text.h"
#include "gateway/triton/http/message_json.h"
#include "gateway/triton/http/statistics_json.h"

namespace caravan {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

HttpResponse JsonResponse(const OrderedJson& json) {
  HttpResponse response;
  response.content_type = "application/json";
  response.body = ToText(json);
  return response;
}

// Health in Triton's way: the status says it all.
HttpResponse StatusResponse(bool good) {
  HttpResponse response;
  response.status = good ? 200 : 400;
  return response;
}

absl::Status WrongMember(const char* name, const char* expected, const Json& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", name, "' must be ", expected, ", found ", Brief(value)));
}

absl::StatusOr<bool> BoolMember(const Json& object, const char* name) {
  const Json* value = FindMember(object, name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) return WrongMember(name, "a bool", *value);
  return value->get<bool>();
}

absl::StatusOr<uint64_t> UnsignedMember(const Json& object, const char* name,
                                        std::optional<uint64_t> fallback) {
  const Json* value = FindMember(object, name);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("'", name, "' is missing in the request"));
  }
  if (!value->is_number_unsigned()) {
    return WrongMember(name, "an integer that is not negative", *value);
  }
  return value->get<uint64_t>();
}

OrderedJson TensorsJson(const std::vector<TensorSpec>& tensors) {
  OrderedJson json = OrderedJson::array();
  for (const TensorSpec& tensor : tensors) {
    if (tensor.hidden) continue;
    OrderedJson item = OrderedJson::object();
    item["name"] = tensor.name;
    item["datatype"] = NameOf(tensor.datatype);
    item["shape"] = WireShape(tensor);
    json.push_back(std::move(item));
  }
  return json;
}

absl::StatusOr<OrderedJson> ServerMetadataJson(const InferenceServer& server) {
  const ServerMetadata metadata = server.Metadata();
  OrderedJson json = OrderedJson::object();
  json["name"] = metadata.name;
  json["version"] = metadata.version;
  json["extensions"] = metadata.extensions;
  return json;
}

absl::StatusOr<OrderedJson> ModelMetadataJson(const Route& route, const InferenceServer& server) {
  ASSIGN_OR_RETURN(const TritonModel* model, server.FindModel(route.model, route.version));
  OrderedJson json = OrderedJson::object();
  json["name"] = model->name;
  json["versions"] = {kTritonModelVersion};
  json["platform"] = model->platform;
  json["inputs"] = TensorsJson(model->inputs);
  json["outputs"] = TensorsJson(model->outputs);
  return json;
}

absl::StatusOr<OrderedJson> ModelConfigJson(const Route& route, const InferenceServer& server) {
  ASSIGN_OR_RETURN(const TritonModel* model, server.FindModel(route.model, route.version));
  return MessageToJson(model->config);
}

absl::StatusOr<OrderedJson> StatisticsJson(const Route& route, const InferenceServer& server) {
  ASSIGN_OR_RETURN(const std::vector<ModelStatistics> models,
                   server.Statistics(route.model, route.version));
  OrderedJson list = OrderedJson::array();
  for (const ModelStatistics& model : models) list.push_back(ToJson(model));
  OrderedJson json = OrderedJson::object();
  json["model_stats"] = std::move(list);
  return json;
}

absl::StatusOr<OrderedJson> RepositoryIndexJson(const ManagementRequest& request,
                                                const InferenceServer& server) {
  ASSIGN_OR_RETURN(const bool ready, BoolMember(request.body, "ready"));
  ASSIGN_OR_RETURN(const std::vector<ModelIndexEntry> entries,
                   server.RepositoryIndex(request.route.repository, ready));
  OrderedJson json = OrderedJson::array();
  for (const ModelIndexEntry& entry : entries) {
    OrderedJson item = OrderedJson::object();
    item["name"] = entry.name;
    item["version"] = entry.version;
    item["state"] = entry.state;
    item["reason"] = entry.reason;
    json.push_back(std::move(item));
  }
  return json;
}

absl::StatusOr<Json> ParametersOf(const Json& body) {
  const Json* parameters = FindMember(body, "parameters");
  if (parameters == nullptr) return Json::object();
  if (!parameters->is_object()) return WrongMember("parameters", "an object", *parameters);
  return *parameters;
}

using Done = ModelRepository::Done;

absl::StatusOr<InferParameters> LoadParameters(const Json& body) {
  ASSIGN_OR_RETURN(const Json members, ParametersOf(body));
  InferParameters parameters;
  for (const auto& [name, value] : members.items()) {
    ASSIGN_OR_RETURN(parameters[name],
                     ParseParameter(absl::StrCat("parameter '", name.substr(0, 64), "'"), value));
  }
  return parameters;
}

void LoadModel(const ManagementRequest& request, InferenceServer* server, Done done) {
  const absl::StatusOr<InferParameters> parameters = LoadParameters(request.body);
  if (!parameters.ok()) return done(parameters.status());
  server->repository().Load(request.route.repository, request.route.model, *parameters,
                            std::move(done));
}

absl::StatusOr<bool> UnloadsDependents(const Json& body) {
  ASSIGN_OR_RETURN(const Json parameters, ParametersOf(body));
  return BoolMember(parameters, "unload_dependents");
}

void UnloadModel(const ManagementRequest& request, InferenceServer* server, Done done) {
  const absl::StatusOr<bool> dependents = UnloadsDependents(request.body);
  if (!dependents.ok()) return done(dependents.status());
  server->repository().Unload(request.route.repository, request.route.model, *dependents,
                              std::move(done));
}

absl::StatusOr<OrderedJson> SystemMemoryJson(const Route& route, InferenceServer* server) {
  ASSIGN_OR_RETURN(const auto regions, server->SystemMemoryStatus(route.region));
  OrderedJson json = OrderedJson::array();
  for (const auto& region : regions) {
    OrderedJson item = OrderedJson::object();
    item["name"] = region->name();
    item["key"] = region->key();
    item["offset"] = region->offset();
    item["byte_size"] = region->byte_size();
    json.push_back(std::move(item));
  }
  return json;
}

absl::Status RegisterSystemMemory(const ManagementRequest& request, InferenceServer* server) {
  const Json* key = FindMember(request.body, "key");
  if (key == nullptr) return absl::InvalidArgumentError("'key' is missing in the request");
  if (!key->is_string()) return WrongMember("key", "a string", *key);
  ASSIGN_OR_RETURN(const uint64_t offset, UnsignedMember(request.body, "offset", 0));
  ASSIGN_OR_RETURN(const uint64_t byte_size,
                   UnsignedMember(request.body, "byte_size", std::nullopt));
  return server->shared_memory().Register(request.route.region, key->get<std::string>(), offset,
                                          byte_size);
}

absl::StatusOr<OrderedJson> CudaMemoryJson(const Route& route, InferenceServer* server) {
  ASSIGN_OR_RETURN(const auto regions, server->CudaMemoryStatus(route.region));
  OrderedJson json = OrderedJson::array();
  for (const auto& region : regions) {
    OrderedJson item = OrderedJson::object();
    item["name"] = region->name();
    item["device_id"] = region->device_id();
    item["byte_size"] = region->byte_size();
    json.push_back(std::move(item));
  }
  return json;
}

// {"b64": text}
absl::StatusOr<std::string> RawHandle(const Json& body) {
  const Json* handle = FindMember(body, "raw_handle");
  if (handle == nullptr)
    return absl::InvalidArgumentError("'raw_handle' is missing in the request");
  const Json* text = handle->is_object() ? FindMember(*handle, "b64") : nullptr;
  if (text == nullptr || !text->is_string()) {
    return WrongMember("raw_handle", "an object with a string 'b64'", *handle);
  }
  std::string bytes;
  if (!absl::Base64Unescape(text->get_ref<const std::string&>(), &bytes)) {
    return absl::InvalidArgumentError("'raw_handle.b64' is not Base64");
  }
  return bytes;
}

void RegisterCudaMemory(const ManagementRequest& request, InferenceServer* server, Done done) {
  const absl::StatusOr<std::string> handle = RawHandle(request.body);
  if (!handle.ok()) return done(handle.status());
  const absl::StatusOr<uint64_t> device = UnsignedMember(request.body, "device_id", std::nullopt);
  if (!device.ok()) return done(device.status());
  const absl::StatusOr<uint64_t> size = UnsignedMember(request.body, "byte_size", std::nullopt);
  if (!size.ok()) return done(size.status());
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  server->RegisterCudaMemory(request.route.region, *handle,
                             static_cast<int64_t>(std::min(*device, kMost)), *size,
                             std::move(done));
}

absl::StatusOr<TraceSettingValues> ParseTraceSettings(const Json& body) {
  TraceSettingValues changes;
  for (const auto& [name, value] : body.items()) {
    std::vector<std::string>& values = changes[name];  // null: back to the default
    const Json list = value.is_array() || value.is_null() ? value : Json::array({value});
    for (const Json& item : list) {
      if (!item.is_string() && !item.is_number() && !item.is_boolean()) {
        return WrongMember(name.c_str(), "a string or an array of strings", item);
      }
      values.push_back(item.is_string() ? item.get<std::string>() : item.dump());
    }
  }
  return changes;
}

absl::StatusOr<OrderedJson> TraceSettingJson(const ManagementRequest& request,
                                             InferenceServer* server) {
  TraceSettingValues changes;
  if (request.is_post) {
    ASSIGN_OR_RETURN(changes, ParseTraceSettings(request.body));
  }
  ASSIGN_OR_RETURN(const TraceSettingValues settings,
                   server->UpdateTraceSettings(request.route.model, changes));
  OrderedJson json = OrderedJson::object();
  for (const auto& [name, values] : settings) {
    if (name == "trace_level" || values.size() != 1) {
      json[name] = values;
    } else {
      json[name] = values[0];
    }
  }
  return json;
}

absl::StatusOr<LogSettingValues> ParseLogSettings(const Json& body) {
  LogSettingValues changes;
  for (const auto& [name, value] : body.items()) {
    if (value.is_boolean()) {
      changes[name] = value.get<bool>();
    } else if (value.is_string()) {
      changes[name] = value.get<std::string>();
    } else if (value.is_number_unsigned() &&
               value.get<uint64_t>() <= std::numeric_limits<uint32_t>::max()) {
      changes[name] = value.get<uint32_t>();
    } else if (!value.is_null()) {
      return WrongMember(name.c_str(), "a bool, a string or a number from 0 to 4294967295", value);
    }
  }
  return changes;
}

absl::StatusOr<OrderedJson> LoggingJson(const ManagementRequest& request, InferenceServer* server) {
  LogSettingValues changes;
  if (request.is_post) {
    ASSIGN_OR_RETURN(changes, ParseLogSettings(request.body));
  }
  ASSIGN_OR_RETURN(const LogSettingValues settings, server->UpdateLogSettings(changes));
  OrderedJson json = OrderedJson::object();
  for (const auto& [name, value] : settings) {
    json[name] = std::visit([](const auto& inner) { return OrderedJson(inner); }, value);
  }
  return json;
}

HttpResponse Answer(const absl::StatusOr<OrderedJson>& json) {
  return json.ok() ? JsonResponse(*json) : MakeErrorResponse(json.status());
}

// What succeeds without saying anything.
HttpResponse Answer(const absl::Status& status) {
  return status.ok() ? HttpResponse() : MakeErrorResponse(status);
}

// What is answered at once.
HttpResponse AnswerNow(const ManagementRequest& request, InferenceServer* server) {
  const Route& route = request.route;
  switch (route.action) {
    case Action::kServerMetadata:
      return Answer(ServerMetadataJson(*server));
    case Action::kServerLive:
      return StatusResponse(server->Live());
    case Action::kServerReady:
      return StatusResponse(server->Ready());
    case Action::kModelMetadata:
      return Answer(ModelMetadataJson(route, *server));
    case Action::kModelReady:
      return StatusResponse(server->ModelReady(route.model, route.version));
    case Action::kModelConfig:
      return Answer(ModelConfigJson(route, *server));
    case Action::kStatistics:
      return Answer(StatisticsJson(route, *server));
    case Action::kRepositoryIndex:
      return Answer(RepositoryIndexJson(request, *server));
    case Action::kSystemMemoryStatus:
      return Answer(SystemMemoryJson(route, server));
    case Action::kSystemMemoryRegister:
      return Answer(RegisterSystemMemory(request, server));
    case Action::kSystemMemoryUnregister:
      server->shared_memory().Unregister(SharedMemoryKind::kSystem, route.region);
      return Answer(absl::OkStatus());
    case Action::kCudaMemoryStatus:
      return Answer(CudaMemoryJson(route, server));
    case Action::kCudaMemoryUnregister:  // clients begin with it, to be sure that there is none
      server->shared_memory().Unregister(SharedMemoryKind::kCuda, route.region);
      return Answer(absl::OkStatus());
    case Action::kTraceSetting:
      return Answer(TraceSettingJson(request, server));
    case Action::kLogging:
      return Answer(LoggingJson(request, server));
    case Action::kModelLoad:
    case Action::kModelUnload:
    case Action::kCudaMemoryRegister:
    case Action::kInfer:
    case Action::kGenerate:
    case Action::kGenerateStream:
      break;
  }
  CARAVAN_CHECK(false, "this is not answered at once");
}

}  // namespace

void Manage(const ManagementRequest& request, InferenceServer* server,
            const std::function<void(HttpResponse)>& respond) {
  const auto done = [respond](const absl::Status& status) { respond(Answer(status)); };
  // Where clients don't control models, they never may: another try is no help.
  const auto controlled = [respond,
                           retry = server->repository().is_controlled()](const auto& status) {
    HttpResponse response = Answer(status);
    if (!retry)
      std::erase_if(response.headers, [](const auto& h) { return h.name == "Retry-After"; });
    respond(std::move(response));
  };
  if (request.route.action == Action::kModelLoad) return LoadModel(request, server, controlled);
  if (request.route.action == Action::kModelUnload) return UnloadModel(request, server, controlled);
  if (request.route.action == Action::kCudaMemoryRegister) {
    return RegisterCudaMemory(request, server, done);
  }
  respond(AnswerNow(request, server));
}

}  // namespace caravan
