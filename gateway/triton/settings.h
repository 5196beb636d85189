// Trace and log settings, which clients may read and change while the gateway runs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace caravan {

// By name, as TraceSetting has them: trace_file, trace_level (OFF, TIMESTAMPS, TENSORS), trace_rate
// (one request in so many), trace_count (traces left, -1 = no limit), log_frequency (traces a file,
// 0 = one file). Clients can't change trace_file: UNIMPLEMENTED.
using TraceSettingValues = std::map<std::string, std::vector<std::string>>;

struct TraceSettings {
  std::string file;
  bool timestamps = false;
  bool tensors = false;
  uint32_t rate = 1000;
  int64_t count = -1;
  uint32_t log_frequency = 0;

  static TraceSettings Off(std::string file);
  bool enabled() const { return (timestamps || tensors) && !file.empty() && count != 0; }
  TraceSettingValues ToValues() const;
  // `settings` with those of `changes`. INVALID_ARGUMENT names the setting and what it takes.
  static absl::StatusOr<TraceSettings> Apply(const TraceSettingValues& changes,
                                             TraceSettings settings);
};

// Triton's scopes: a model's settings, above them those of all models, above them the gateway's
// flags. What a scope does not name is as in the one above, and changes with it.
class TraceScope {
 public:
  explicit TraceScope(const TraceSettings& above) : settings_(above) {}

  // An empty list of values gives up the scope's own. INVALID_ARGUMENT names the setting and what
  // it takes; nothing has changed then. Requests are counted anew.
  absl::Status Change(const TraceSettingValues& changes, const TraceSettings& above);
  // The scope above has changed.
  void Follow(const TraceSettings& above);

  bool has_own() const { return !own_.empty(); }
  const TraceSettings& settings() const { return settings_; }
  // Whether the request that has come is one to trace: each rate-th, while the count lasts.
  bool Sample();

 private:
  // A count counts down: what is left of it is what the scope has.
  TraceSettingValues Own() const;

  TraceSettingValues own_;
  TraceSettings settings_;
  uint64_t requests_seen_ = 0;
};

// By name, as LogSettings has them: log_file, log_info, log_warning, log_error, log_verbose_level,
// log_format ("default", "ISO8601", which are one here). They act on the whole process' log.
// Clients can't change log_file, which is "": UNIMPLEMENTED.
using LogSettingValue = std::variant<bool, uint32_t, std::string>;
using LogSettingValues = std::map<std::string, LogSettingValue>;

struct LogSettings {
  bool info = true;
  bool warning = true;
  bool error = true;
  uint32_t verbose_level = 0;
  std::string format = "default";

  LogSettingValues ToValues() const;
  static absl::StatusOr<LogSettings> Apply(const LogSettingValues& changes, LogSettings current);
};

}  // namespace caravan
