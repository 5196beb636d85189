// Checks of invariants for a library that knows only the standard one. For .cc files, not headers:
// the services have a macro of the same name in common/status.h.
#pragma once

#include <sstream>
#include <string>

namespace caravan::internal {

[[noreturn]] void KernelCheckFailed(const char* file, int line, const char* condition,
                                    const std::string& detail);

template <typename... Values>
std::string Concatenate(const Values&... values) {
  std::ostringstream text;
  (text << ... << values);
  return text.str();
}

}  // namespace caravan::internal

// On in release; never on input. Further arguments are printed one after the other.
#define CARAVAN_CHECK(condition, ...)                                       \
  do {                                                                      \
    if (!(condition)) [[unlikely]] {                                        \
      ::caravan::internal::KernelCheckFailed(                               \
          __FILE__, __LINE__, #condition,                                   \
          ::caravan::internal::Concatenate("" __VA_OPT__(, ) __VA_ARGS__)); \
    }                                                                       \
  } while (false)

#define CARAVAN_CHECK_EQ(a, b)                                                  \
  do {                                                                          \
    const auto caravan_a = (a);                                                 \
    const auto caravan_b = (b);                                                 \
    if (!(caravan_a == caravan_b)) [[unlikely]] {                               \
      ::caravan::internal::KernelCheckFailed(                                   \
          __FILE__, __LINE__, #a " == " #b,                                     \
          ::caravan::internal::Concatenate(caravan_a, " against ", caravan_b)); \
    }                                                                           \
  } while (false)
