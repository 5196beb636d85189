// The options of one command of the CLI: `--name=value` or `--name value`, `--flag` and `--noflag`
// for booleans, `--` before arguments that start with a dash.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace caravan {

class Options {
 public:
  // `arguments` as the usage line shows them ("[PROMPT]"; empty: none are taken), `summary` what
  // the command does.
  Options(std::string command, std::string arguments, std::string summary);

  // The value that an option sets stays the caller's, who has put the default in. A vector takes
  // the option any number of times.
  using Target =
      std::variant<std::string*, int64_t*, double*, bool*, std::optional<uint64_t>*,
                   std::optional<int64_t>*, std::optional<double>*, std::vector<std::string>*>;
  void Add(std::string name, Target target, std::string help);

  // Sets the targets and returns the arguments that are no options. INVALID_ARGUMENT says what is
  // wrong with which option.
  absl::StatusOr<std::vector<std::string>> Parse(const std::vector<std::string>& words);

  // The same for a program's main: --help prints Help() and ends the process with 0, an error ends
  // it with 2 and a sentence.
  std::vector<std::string> ParseOrExit(const std::vector<std::string>& words);

  // Ends the process with 2 and the sentence: for what Parse can't know.
  [[noreturn]] void Fail(const std::string& sentence) const;

  // Fails unless the option, if it is given at all, is the host:port of a server.
  void CheckAddressOrExit(const std::string& name, const std::string& address) const;

  std::string Help() const;

 private:
  struct Option {
    std::string name;
    Target target;
    std::string help;
    std::string default_text;
  };
  const Option* Find(const std::string& name) const;

  std::string command_;
  std::string arguments_;
  std::string summary_;
  std::vector<Option> options_;
};

}  // namespace caravan
