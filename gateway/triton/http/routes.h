// Which path means what.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace caravan {

enum class Action : uint8_t {
  kServerMetadata,
  kServerLive,
  kServerReady,
  kModelMetadata,
  kModelReady,
  kModelConfig,
  kStatistics,
  kInfer,
  kGenerate,
  kGenerateStream,
  kRepositoryIndex,
  kModelLoad,
  kModelUnload,
  kSystemMemoryStatus,
  kSystemMemoryRegister,
  kSystemMemoryUnregister,
  kCudaMemoryStatus,
  kCudaMemoryRegister,
  kCudaMemoryUnregister,
  kTraceSetting,
  kLogging,
};

struct Route {
  Action action = Action::kServerMetadata;
  std::string model;       // or empty: all
  std::string version;     // or empty: the latest
  std::string repository;  // or empty
  std::string region;      // of shared memory, or empty: all
  bool takes_get = true;
  bool takes_post = false;
};

// nullopt: no such path. INVALID_ARGUMENT: its percent-encoding is broken.
absl::StatusOr<std::optional<Route>> FindRoute(std::string_view path);

}  // namespace caravan
