#pragma once

#include <string>

#include "absl/status/status.h"
#include "gateway/config.h"
#include "gateway/event_loop.h"
#include "gateway/generation/dispatcher.h"
#include "gateway/metrics.h"

namespace caravan {

// What the calls of the native API share; outlives them.
struct NativeContext {
  EventLoop* loop = nullptr;
  Dispatcher* dispatcher = nullptr;
  GatewayMetrics* metrics = nullptr;
  OutputLimits limits;
  size_t max_message_bytes = 64 << 20;  // of a decompressed message
};

// A request that validation refused: counts it and writes its log line. Any thread.
void CountRefusal(const NativeContext& native, const std::string& request_id,
                  const absl::Status& status);

}  // namespace caravan
