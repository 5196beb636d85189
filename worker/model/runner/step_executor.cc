#include "worker/model/runner/step_executor.h"

#include <utility>

namespace caravan {

SlotResult SlotResultOf(int32_t slot, const SamplingOutput& output) {
  EmittedToken token;
  token.token_id = output.token_id;
  token.logprob = output.logprob;
  for (int32_t i = 0; i < output.num_top; ++i) {
    token.top_logprobs.emplace_back(output.top[i].token_id, output.top[i].logprob);
  }
  return {slot, {std::move(token)}, output.finite};
}

}  // namespace caravan
