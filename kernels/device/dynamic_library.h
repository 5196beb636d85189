// Libraries of the CUDA toolkit that are loaded when a GPU is used and not before: a worker starts
// without them on a machine that has none, and their thread-local memory (94 KiB in cuBLASLt) is
// not taken from every thread's stack, which is too small for it in other libraries' threads.
#pragma once

#include <string>

namespace caravan {

// One library, loaded when it is made and kept. Any thread.
class DynamicLibrary {
 public:
  // `file` as the dynamic linker finds it, else `folder`/`file`: the toolkit of the build.
  DynamicLibrary(const char* file, const char* folder);

  // Empty where the library is there, else the linker's reason.
  const std::string& problem() const { return problem_; }

  // A function of the library by name. `F` is its type, as its own header declares it. Ends the
  // process where it is missing: problem() is for asking first.
  template <typename F>
  F* Find(const char* function) const {
    return reinterpret_cast<F*>(FindAddress(function));
  }

 private:
  void* FindAddress(const char* function) const;

  const char* const file_;
  void* handle_ = nullptr;
  std::string problem_;
};

}  // namespace caravan

// The body of a function of the library's name and type that calls the library's own: what a
// program is linked to in place of the library.
#define CARAVAN_FORWARD(library, function, ...)                                        \
  static auto* const caravan_function = (library).Find<decltype(function)>(#function); \
  return caravan_function(__VA_ARGS__)
