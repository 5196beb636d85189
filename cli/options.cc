#include "cli/options.h"

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "common/flags.h"
#include "common/status.h"

namespace caravan {
namespace {

// What the value of an option looks like in a help line.
std::string Placeholder(const Options::Target& target) {
  return std::visit(
      [](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, bool>) return "";
        if constexpr (std::is_same_v<T, double> || std::is_same_v<T, std::optional<double>>) {
          return "=X";
        }
        if constexpr (std::is_same_v<T, std::string> ||
                      std::is_same_v<T, std::vector<std::string>>) {
          return "=TEXT";
        }
        return "=N";
      },
      target);
}

std::string DefaultText(const Options::Target& target) {
  return std::visit(
      [](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) return *value;
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>) {
          return absl::StrCat(*value);
        }
        if constexpr (std::is_same_v<T, bool>) return *value ? "on" : "";
        return "";
      },
      target);
}

absl::Status SetNumber(const std::string& text, int64_t* value) {
  return absl::SimpleAtoi(text, value) ? absl::OkStatus()
                                       : absl::InvalidArgumentError("a whole number");
}

absl::Status SetNumber(const std::string& text, uint64_t* value) {
  return absl::SimpleAtoi(text, value) ? absl::OkStatus()
                                       : absl::InvalidArgumentError("a whole number from 0");
}

absl::Status SetNumber(const std::string& text, double* value) {
  return absl::SimpleAtod(text, value) ? absl::OkStatus() : absl::InvalidArgumentError("a number");
}

// The error's message is what the value should have been.
absl::Status Set(const Options::Target& target, const std::string& text) {
  return std::visit(
      [&text](auto* value) -> absl::Status {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) {
          *value = text;
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          value->push_back(text);
        } else if constexpr (std::is_same_v<T, bool>) {
          if (!absl::SimpleAtob(text, value)) return absl::InvalidArgumentError("true or false");
        } else if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>) {
          return SetNumber(text, value);
        } else {
          typename T::value_type number{};
          RETURN_IF_ERROR(SetNumber(text, &number));
          *value = number;
        }
        return absl::OkStatus();
      },
      target);
}

}  // namespace

Options::Options(std::string command, std::string arguments, std::string summary)
    : command_(std::move(command)),
      arguments_(std::move(arguments)),
      summary_(std::move(summary)) {}

void Options::Add(std::string name, Target target, std::string help) {
  options_.push_back({std::move(name), target, std::move(help), DefaultText(target)});
}

const Options::Option* Options::Find(const std::string& name) const {
  for (const Option& option : options_) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

absl::StatusOr<std::vector<std::string>> Options::Parse(const std::vector<std::string>& words) {
  std::vector<std::string> arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--") {
      arguments.insert(arguments.end(), words.begin() + i + 1, words.end());
      break;
    }
    if (!absl::StartsWith(words[i], "--")) {
      arguments.push_back(words[i]);
      continue;
    }
    const size_t equals = words[i].find('=');
    const bool has_value = equals != std::string::npos;
    const std::string name = has_value ? words[i].substr(2, equals - 2) : words[i].substr(2);
    const Option* option = Find(name);
    if (option == nullptr && !has_value && absl::StartsWith(name, "no")) {
      const Option* negated = Find(name.substr(2));
      if (negated != nullptr && std::holds_alternative<bool*>(negated->target)) {
        *std::get<bool*>(negated->target) = false;
        continue;
      }
    }
    if (option == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("there is no option --", name));
    }
    if (!has_value && std::holds_alternative<bool*>(option->target)) {
      *std::get<bool*>(option->target) = true;
      continue;
    }
    if (!has_value && i + 1 == words.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
    }
    const std::string value = has_value ? words[i].substr(equals + 1) : words[++i];
    if (const absl::Status status = Set(option->target, value); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, " is '", value, "'; it must be ", status.message()));
    }
  }
  if (arguments_.empty() && !arguments.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", arguments[0], "'"));
  }
  return arguments;
}

std::vector<std::string> Options::ParseOrExit(const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (word == "--") break;
    if (word == "--help" || word == "-h") {
      WriteOut(Help());
      std::exit(Report(command_, absl::OkStatus()));
    }
  }
  absl::StatusOr<std::vector<std::string>> arguments = Parse(words);
  if (!arguments.ok()) Fail(std::string(arguments.status().message()));
  return *std::move(arguments);
}

void Options::Fail(const std::string& sentence) const {
  std::fprintf(stderr, "caravan %s: %s (caravan %s --help lists the options)\n", command_.c_str(),
               sentence.c_str(), command_.c_str());
  std::exit(2);
}

void Options::CheckAddressOrExit(const std::string& name, const std::string& address) const {
  if (address.empty()) return;
  if (const absl::Status status = CheckAddress(name, address); !status.ok()) {
    Fail(std::string(status.message()));
  }
}

std::string Options::Help() const {
  std::string help = absl::StrCat("caravan ", command_, arguments_.empty() ? "" : " ", arguments_,
                                  " [options]\n\n", summary_, "\n\n");
  for (const Option& option : options_) {
    absl::StrAppendFormat(
        &help, "  --%-24s %s%s\n", option.name + Placeholder(option.target), option.help,
        option.default_text.empty() ? "" : absl::StrCat(" (default ", option.default_text, ")"));
  }
  return help;
}

}  // namespace caravan
