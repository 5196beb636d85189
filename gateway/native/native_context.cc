#include "gateway/native/native_context.h"

#include "common/log.h"

namespace caravan {

void CountRefusal(const NativeContext& native, const std::string& request_id,
                  const absl::Status& status) {
  native.metrics->requests_started.Increment();
  native.metrics->finished(EndReason::kError).Increment();
  native.metrics->error(status.code()).Increment();
  LogInfo("finished", {{"request", request_id},
                       {"reason", "error"},
                       {"code", absl::StatusCodeToString(status.code())},
                       {"message", std::string(status.message())}});
}

}  // namespace caravan
