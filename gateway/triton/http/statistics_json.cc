#include "gateway/triton/http/statistics_json.h"

#include <string>
#include <utility>

namespace caravan {
namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson DurationJson(const DurationStatistic& duration) {
  OrderedJson json = OrderedJson::object();
  json["count"] = duration.count;
  json["ns"] = duration.ns;
  return json;
}

OrderedJson InferenceJson(const ModelStatistics& model) {
  OrderedJson json = OrderedJson::object();
  json["success"] = DurationJson(model.success);
  json["fail"] = DurationJson(model.fail);
  json["queue"] = DurationJson(model.queue);
  json["compute_input"] = DurationJson(model.compute_input);
  json["compute_infer"] = DurationJson(model.compute_infer);
  json["compute_output"] = DurationJson(model.compute_output);
  json["cache_hit"] = DurationJson({});
  json["cache_miss"] = DurationJson({});
  return json;
}

OrderedJson BatchesJson(const ModelStatistics& model) {
  OrderedJson json = OrderedJson::array();
  for (const auto& [rows, batch] : model.batches) {
    OrderedJson item = OrderedJson::object();
    item["batch_size"] = rows;
    item["compute_input"] = DurationJson(batch.compute_input);
    item["compute_infer"] = DurationJson(batch.compute_infer);
    item["compute_output"] = DurationJson(batch.compute_output);
    json.push_back(std::move(item));
  }
  return json;
}

OrderedJson ResponsesJson(const ModelStatistics& model) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [index, response] : model.responses) {
    OrderedJson& item = json[std::to_string(index)];
    item["compute_infer"] = DurationJson(response.compute_infer);
    item["compute_output"] = DurationJson(response.compute_output);
    item["success"] = DurationJson(response.success);
    item["fail"] = DurationJson(response.fail);
    item["empty_response"] = DurationJson(response.empty_response);
    item["cancel"] = DurationJson(response.cancel);
  }
  return json;
}

}  // namespace

OrderedJson ToJson(const ModelStatistics& model) {
  OrderedJson json = OrderedJson::object();
  json["name"] = model.name;
  json["version"] = model.version;
  json["last_inference"] = model.last_inference_ms;
  json["inference_count"] = model.inference_count;
  json["execution_count"] = model.execution_count;
  json["inference_stats"] = InferenceJson(model);
  json["batch_stats"] = BatchesJson(model);
  json["response_stats"] = ResponsesJson(model);
  json["memory_usage"] = OrderedJson::array();
  return json;
}

}  // namespace caravan
