#include "common/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <memory>

namespace caravan {
namespace {

struct LogState {
  std::shared_ptr<spdlog::logger> logger = spdlog::stderr_logger_mt("caravan");
  std::string service = "caravan";
  bool json = false;
  spdlog::level::level_enum level = spdlog::level::info;
  std::array<std::atomic<bool>, 4> off{};  // by LogLevel
  LogState() { logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%L%$ %v"); }
};

LogState& State() {
  static LogState* state = new LogState;  // never destroyed: threads may log while the process ends
  return *state;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

bool NeedsQuotes(std::string_view text) {
  if (text.empty()) return true;
  for (const unsigned char c : text) {
    if (c <= ' ' || c == '"' || c == '\\' || c == 0x7f) return true;
  }
  return false;
}

void AppendQuoted(std::string* out, std::string_view text) {
  out->push_back('"');
  for (const unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else if (c < ' ' || c == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      out->append(escaped);
    } else {
      out->push_back(static_cast<char>(c));
    }
  }
  out->push_back('"');
}

std::string TextLine(std::string_view verb, std::initializer_list<LogField> fields) {
  std::string line = State().service + ' ';
  line.append(verb);
  for (const LogField& field : fields) {
    line.push_back(' ');
    line.append(field.key);
    line.push_back('=');
    if (field.quoted && NeedsQuotes(field.value)) {
      AppendQuoted(&line, field.value);
    } else {
      line.append(field.value);
    }
  }
  return line;
}

std::string JsonLine(std::string_view verb, std::initializer_list<LogField> fields) {
  std::string line = "\"service\":";
  AppendQuoted(&line, State().service);
  line.append(",\"message\":");
  AppendQuoted(&line, verb);
  for (const LogField& field : fields) {
    line.push_back(',');
    AppendQuoted(&line, field.key);
    line.push_back(':');
    if (field.quoted) {
      AppendQuoted(&line, field.value);
    } else {
      line.append(field.value);
    }
  }
  return line;
}

}  // namespace

LogField::LogField(std::string_view key, double number) : key(key) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", number);
  value = text;
  quoted = value.find_first_of("ni") != std::string::npos;  // nan, inf: not JSON numbers
}

void InitLog(const LogOptions& options) {
  LogState& state = State();
  state.service = options.service;
  state.json = options.json;
  state.level = ToSpdlog(options.level);
  state.logger->set_level(state.level);
  state.logger->flush_on(spdlog::level::debug);
  if (options.json) {
    state.logger->set_pattern(R"({"time":"%Y-%m-%dT%H:%M:%S.%e","level":"%l",%v})");
  }
}

void SwitchLog(const LogSwitches& switches) {
  LogState& state = State();
  state.off[static_cast<size_t>(LogLevel::kInfo)] = !switches.info;
  state.off[static_cast<size_t>(LogLevel::kWarning)] = !switches.warning;
  state.off[static_cast<size_t>(LogLevel::kError)] = !switches.error;
  state.logger->set_level(switches.debug ? spdlog::level::debug : state.level);
}

void Log(LogLevel level, std::string_view verb, std::initializer_list<LogField> fields) {
  const spdlog::level::level_enum spdlog_level = ToSpdlog(level);
  if (State().off[static_cast<size_t>(level)]) return;
  if (!State().logger->should_log(spdlog_level)) return;
  State().logger->log(spdlog_level, "{}",
                      State().json ? JsonLine(verb, fields) : TextLine(verb, fields));
}

}  // namespace caravan
