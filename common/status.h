// Status, the way errors travel: macros that return early, and checks of invariants.
#pragma once

#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace caravan::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& detail);

}  // namespace caravan::internal

// Broken invariants, on in release; never on input. Further arguments are appended to the message
// by absl::StrCat.
#define CARAVAN_CHECK(condition, ...)                                                  \
  do {                                                                                 \
    if (!(condition)) [[unlikely]] {                                                   \
      ::caravan::internal::CheckFailed(__FILE__, __LINE__, #condition,                 \
                                       ::absl::StrCat("" __VA_OPT__(, ) __VA_ARGS__)); \
    }                                                                                  \
  } while (false)

#define RETURN_IF_ERROR(expression)                                                        \
  do {                                                                                     \
    if (::absl::Status caravan_status = (expression); !caravan_status.ok()) [[unlikely]] { \
      return caravan_status;                                                               \
    }                                                                                      \
  } while (false)

#define CARAVAN_CONCAT_INNER(a, b) a##b
#define CARAVAN_CONCAT(a, b) CARAVAN_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto x, F()): x = the value of a StatusOr, or return its status.
// NOLINTBEGIN(bugprone-macro-parentheses): a declaration can't stand in parentheses
#define ASSIGN_OR_RETURN(declaration, expression)                            \
  auto CARAVAN_CONCAT(caravan_status_or_, __LINE__) = (expression);          \
  if (!CARAVAN_CONCAT(caravan_status_or_, __LINE__).ok()) [[unlikely]] {     \
    return std::move(CARAVAN_CONCAT(caravan_status_or_, __LINE__)).status(); \
  }                                                                          \
  declaration = *std::move(CARAVAN_CONCAT(caravan_status_or_, __LINE__))
// NOLINTEND(bugprone-macro-parentheses)
