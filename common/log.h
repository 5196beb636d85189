// One log line an event: `verb key=value …`. The only part that knows the logging library.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace caravan {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

struct LogOptions {
  std::string service = "caravan";  // prefix of each line, e.g. "gateway" or "worker/1"
  LogLevel level = LogLevel::kInfo;
  bool json = false;  // one JSON object a line in place of text
};

// Once, in main, before the first line. Lines go to standard error.
void InitLog(const LogOptions& options);

// Which lines are written from now on, whatever LogOptions::level says of them. Any thread.
struct LogSwitches {
  bool info = true;
  bool warning = true;
  bool error = true;
  bool debug = false;  // false: as LogOptions::level has it
};
void SwitchLog(const LogSwitches& switches);

// One key=value of a line; strings are quoted where they hold spaces, quotes or control characters.
struct LogField {
  LogField(std::string_view key, std::string_view value) : key(key), value(value), quoted(true) {}
  LogField(std::string_view key, const char* value) : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, const std::string& value)
      : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, bool value) : key(key), value(value ? "true" : "false") {}
  LogField(std::string_view key, double value);
  template <typename Integer>
  requires std::is_integral_v<Integer> LogField(std::string_view key, Integer value)
      : key(key), value(std::to_string(value)) {}

  std::string_view key;
  std::string value;
  bool quoted = false;
};

// LogInfo("finished request", {{"request", id}, {"tokens", n}}). Any thread.
void Log(LogLevel level, std::string_view verb, std::initializer_list<LogField> fields);
inline void LogDebug(std::string_view verb, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kDebug, verb, fields);
}
inline void LogInfo(std::string_view verb, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, verb, fields);
}
inline void LogWarning(std::string_view verb, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarning, verb, fields);
}
inline void LogError(std::string_view verb, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, verb, fields);
}

}  // namespace caravan
