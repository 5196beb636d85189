#include "worker/model/files/json_reader.h"

#include <cmath>
#include <cstdio>
#include <set>
#include <utility>

#include "common/status.h"

namespace caravan {
namespace {

constexpr int kMaxDepth = 64;

std::string AbsentText(std::string_view file, const std::string& name) {
  return absl::StrCat(std::string(file), ": required field ", name, " is missing");
}

std::string NumberText(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view file) {
  bool too_deep = false;
  std::string duplicate;
  std::set<std::string> keys;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (depth > kMaxDepth) too_deep = true;
    if (event == nlohmann::json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second && duplicate.empty()) duplicate = key;
    }
    return !too_deep;  // what lies deeper is dropped while it is read
  };
  nlohmann::json object =
      nlohmann::json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file), ": JSON is nested more than ", kMaxDepth, " levels deep"));
  }
  if (object.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(file), ": not valid JSON"));
  }
  if (!object.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file), ": expected a JSON object, found ", object.type_name()));
  }
  if (!duplicate.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file), ": the name '", duplicate, "' occurs twice"));
  }
  return object;
}

const nlohmann::json* JsonFields::Find(const char* field) const {
  const auto it = object_.find(field);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::Fail(const char* field, std::string_view problem) {
  if (!status_.ok()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat(std::string(file_), ": ", prefix_, field, " ", std::string(problem)));
}

int64_t JsonFields::Integer(const char* field, int64_t least, int64_t most,
                            std::optional<int64_t> fallback) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (!fallback && status_.ok()) {
      status_ = absl::InvalidArgumentError(AbsentText(file_, prefix_ + field));
    }
    return fallback.value_or(least);
  }
  if (!value->is_number_integer()) {
    Fail(field, absl::StrCat("must be an integer, found ", Brief(*value)));
    return fallback.value_or(least);
  }
  const bool too_large = value->is_number_unsigned() &&
                         value->get<uint64_t>() > static_cast<uint64_t>(most < 0 ? 0 : most);
  if (too_large || value->get<int64_t>() < least || value->get<int64_t>() > most) {
    Fail(field, absl::StrCat("is ", Brief(*value), ", must be in [", least, ", ", most, "]"));
    return fallback.value_or(least);
  }
  return value->get<int64_t>();
}

double JsonFields::Number(const char* field, double least, double most,
                          std::optional<double> fallback) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) {
    if (!fallback && status_.ok()) {
      status_ = absl::InvalidArgumentError(AbsentText(file_, prefix_ + field));
    }
    return fallback.value_or(least);
  }
  if (!value->is_number()) {
    Fail(field, absl::StrCat("must be a number, found ", Brief(*value)));
    return fallback.value_or(least);
  }
  const double number = value->get<double>();
  if (!(number >= least && number <= most)) {
    Fail(field, absl::StrCat("is ", Brief(*value), ", must be in [", NumberText(least), ", ",
                             NumberText(most), "]"));
    return fallback.value_or(least);
  }
  return number;
}

bool JsonFields::Bool(const char* field, bool fallback) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Fail(field, absl::StrCat("must be true or false, found ", Brief(*value)));
    return fallback;
  }
  return value->get<bool>();
}

std::string JsonFields::Text(const char* field, std::string fallback) {
  const nlohmann::json* value = Find(field);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    Fail(field, absl::StrCat("must be a string, found ", Brief(*value)));
    return fallback;
  }
  return value->get<std::string>();
}

std::string Brief(const nlohmann::json& value) {
  if (value.is_array()) return absl::StrCat("an array of ", value.size());
  if (value.is_object()) return absl::StrCat("an object of ", value.size(), " fields");
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace caravan
