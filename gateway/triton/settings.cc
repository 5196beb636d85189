#include "gateway/triton/settings.h"

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {
namespace {

absl::StatusOr<int64_t> ReadNumber(const std::string& name, const std::string& text, int64_t least,
                                   int64_t most) {
  int64_t value = 0;
  if (absl::SimpleAtoi(text, &value) && value >= least && value <= most) return value;
  return absl::InvalidArgumentError(absl::StrCat("trace setting '", name, "' is '", text,
                                                 "'; it must be a number in [", least, ", ", most,
                                                 "]"));
}

absl::Status ApplyLevel(const std::vector<std::string>& values, TraceSettings* settings) {
  bool timestamps = false;
  bool tensors = false;
  for (const std::string& value : values) {
    if (value == "TIMESTAMPS" || value == "MIN" || value == "MAX") {
      timestamps = true;
    } else if (value == "TENSORS") {
      tensors = true;
    } else if (value != "OFF" || values.size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("trace setting 'trace_level' has '", value,
                       "'; it takes OFF alone, or TIMESTAMPS and TENSORS"));
    }
  }
  settings->timestamps = timestamps;
  settings->tensors = tensors;
  return absl::OkStatus();
}

absl::Status ApplyTrace(const std::string& name, const std::vector<std::string>& values,
                        TraceSettings* settings) {
  constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
  if (name == "trace_level") return ApplyLevel(values, settings);
  if (values.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("trace setting '", name, "' has ", values.size(), " values; it takes one"));
  }
  const std::string& value = values[0];
  if (name == "trace_file") {
    // A client that names files could overwrite any file of the gateway's.
    if (value == settings->file) return absl::OkStatus();
    return absl::UnimplementedError(
        "trace file location can not be updated through network protocol; start the gateway with "
        "--triton_trace_file");
  }
  if (name == "trace_rate") {
    ASSIGN_OR_RETURN(const int64_t rate, ReadNumber(name, value, 1, kMost));
    settings->rate = static_cast<uint32_t>(rate);
  } else if (name == "trace_count") {
    ASSIGN_OR_RETURN(settings->count, ReadNumber(name, value, -1, kMost));
  } else if (name == "log_frequency") {
    ASSIGN_OR_RETURN(const int64_t frequency, ReadNumber(name, value, 0, kMost));
    settings->log_frequency = static_cast<uint32_t>(frequency);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("trace setting '", name,
                     "' is not known; there are trace_file, trace_level, trace_rate, trace_count "
                     "and log_frequency"));
  }
  return absl::OkStatus();
}

absl::Status WrongKind(const std::string& name, const char* kind) {
  return absl::InvalidArgumentError(
      absl::StrCat("log setting '", name, "' has the wrong kind; it takes a ", kind));
}

template <typename Value>
absl::Status Take(const std::string& name, const LogSettingValue& value, const char* kind,
                  Value* out) {
  const auto* given = std::get_if<Value>(&value);
  if (given == nullptr) return WrongKind(name, kind);
  *out = *given;
  return absl::OkStatus();
}

absl::Status ApplyLog(const std::string& name, const LogSettingValue& value,
                      LogSettings* settings) {
  if (name == "log_file") {
    const auto* file = std::get_if<std::string>(&value);
    if (file != nullptr && file->empty()) return absl::OkStatus();  // as it is
    return absl::UnimplementedError(
        "log file location can not be updated through network protocol; the log goes to standard "
        "error");
  }
  if (name == "log_info") return Take(name, value, "bool", &settings->info);
  if (name == "log_warning") return Take(name, value, "bool", &settings->warning);
  if (name == "log_error") return Take(name, value, "bool", &settings->error);
  if (name == "log_verbose_level") return Take(name, value, "uint32", &settings->verbose_level);
  if (name != "log_format") {
    return absl::InvalidArgumentError(absl::StrCat(
        "log setting '", name,
        "' is not known; there are log_file, log_info, log_warning, log_error, log_verbose_level "
        "and log_format"));
  }
  std::string format;
  RETURN_IF_ERROR(Take(name, value, "string", &format));
  if (format != "default" && format != "ISO8601") {
    return absl::InvalidArgumentError(
        absl::StrCat("log setting 'log_format' is '", format, "'; it takes default or ISO8601"));
  }
  settings->format = format;
  return absl::OkStatus();
}

}  // namespace

TraceSettingValues TraceSettings::ToValues() const {
  std::vector<std::string> level;
  if (timestamps) level.emplace_back("TIMESTAMPS");
  if (tensors) level.emplace_back("TENSORS");
  if (level.empty()) level.emplace_back("OFF");
  return {{"trace_file", {file}},
          {"trace_level", level},
          {"trace_rate", {std::to_string(rate)}},
          {"trace_count", {std::to_string(count)}},
          {"log_frequency", {std::to_string(log_frequency)}}};
}

TraceSettings TraceSettings::Off(std::string file) {
  TraceSettings settings;
  settings.file = std::move(file);
  return settings;
}

absl::StatusOr<TraceSettings> TraceSettings::Apply(const TraceSettingValues& changes,
                                                   TraceSettings settings) {
  for (const auto& [name, values] : changes) {
    RETURN_IF_ERROR(ApplyTrace(name, values, &settings));
  }
  if ((settings.timestamps || settings.tensors) && settings.file.empty()) {
    return absl::InvalidArgumentError(
        "trace setting 'trace_level' can't be on without a file; start the gateway with "
        "--triton_trace_file");
  }
  return settings;
}

TraceSettingValues TraceScope::Own() const {
  TraceSettingValues own = own_;
  const auto count = own.find("trace_count");
  if (count != own.end()) count->second = {std::to_string(settings_.count)};
  return own;
}

absl::Status TraceScope::Change(const TraceSettingValues& changes, const TraceSettings& above) {
  const TraceSettingValues known = above.ToValues();
  TraceSettingValues own = Own();
  for (const auto& [name, values] : changes) {
    if (values.empty() && known.contains(name)) {
      own.erase(name);
    } else {
      own[name] = values;
    }
  }
  ASSIGN_OR_RETURN(settings_, TraceSettings::Apply(own, above));
  own_ = std::move(own);
  requests_seen_ = 0;
  return absl::OkStatus();
}

void TraceScope::Follow(const TraceSettings& above) {
  absl::StatusOr<TraceSettings> settings = TraceSettings::Apply(Own(), above);
  CARAVAN_CHECK(settings.ok(), "what was applied before can't be applied again");
  settings_ = *std::move(settings);
  requests_seen_ = 0;
}

bool TraceScope::Sample() {
  if (!settings_.enabled() || requests_seen_++ % settings_.rate != 0) return false;
  if (settings_.count > 0) --settings_.count;
  return true;
}

LogSettingValues LogSettings::ToValues() const {
  return {{"log_file", std::string()},
          {"log_info", info},
          {"log_warning", warning},
          {"log_error", error},
          {"log_verbose_level", verbose_level},
          {"log_format", format}};
}

absl::StatusOr<LogSettings> LogSettings::Apply(const LogSettingValues& changes,
                                               LogSettings current) {
  for (const auto& [name, value] : changes) RETURN_IF_ERROR(ApplyLog(name, value, &current));
  return current;
}

}  // namespace caravan
