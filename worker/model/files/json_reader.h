// JSON files of a model folder, read with suspicion: every error names the file, the field, the
// value and the limit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace caravan {

// `text` as one JSON object: at most 64 levels deep, no key twice in the outermost object.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view file);

// Reads fields of one object. The first wrong field is kept as status(); later calls give the
// fallbacks, so a caller reads all fields and then checks once. A null counts as absent.
class JsonFields {
 public:
  // `object` and `file` outlive this. `prefix` is put before field names in errors.
  JsonFields(const nlohmann::json& object, std::string_view file, std::string prefix = "")
      : object_(object), file_(file), prefix_(std::move(prefix)) {}

  bool Has(const char* field) const { return Find(field) != nullptr; }
  const nlohmann::json* Find(const char* field) const;

  // Without a fallback the field is required.
  int64_t Integer(const char* field, int64_t least, int64_t most,
                  std::optional<int64_t> fallback = std::nullopt);
  double Number(const char* field, double least, double most,
                std::optional<double> fallback = std::nullopt);
  bool Bool(const char* field, bool fallback);
  std::string Text(const char* field, std::string fallback);

  // Records an error about a field, unless one is kept already.
  void Fail(const char* field, std::string_view problem);
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json& object_;
  std::string_view file_;
  std::string prefix_;
  absl::Status status_;
};

// A JSON value as a short text for errors.
std::string Brief(const nlohmann::json& value);

}  // namespace caravan
