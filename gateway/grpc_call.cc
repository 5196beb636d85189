#include "gateway/grpc_call.h"

#include <algorithm>

#include "common/server.h"

namespace caravan {

CallInfo CallInfoOf(const grpc::CallbackServerContext& context) {
  CallInfo call;
  call.request_id = MetadataOf(context, kRequestIdKey);
  call.traceparent = MetadataOf(context, kTraceparentKey);
  call.client = context.peer();
  call.client.resize(std::min(call.client.size(), call.client.rfind(':')));
  call.deadline = context.deadline();
  return call;
}

std::chrono::steady_clock::time_point EarlierDeadline(
    std::chrono::steady_clock::time_point arrival, uint32_t timeout_ms,
    std::chrono::system_clock::time_point of_call) {
  using Steady = std::chrono::steady_clock;
  // A call without a deadline has one in the far future, which must not overflow.
  constexpr auto kForever = std::chrono::hours(24 * 365);
  const auto left = of_call - std::chrono::system_clock::now();
  Steady::time_point deadline = left > kForever
                                    ? Steady::time_point::max()
                                    : arrival + std::chrono::duration_cast<Steady::duration>(left);
  if (timeout_ms > 0) {
    deadline = std::min(deadline, arrival + std::chrono::milliseconds(timeout_ms));
  }
  return deadline;
}

}  // namespace caravan
