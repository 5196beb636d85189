// From a gateway's message to a request of the engine. Gateways have checked what clients send, in
// the clients' terms; a worker checks again because nothing that it is sent may bring it down.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "caravan/v1/worker.pb.h"
#include "worker/engine/request.h"

namespace caravan {

struct SubmitLimits {
  std::string model;
  std::string fingerprint;
  int32_t vocab_size = 0;
  int32_t max_context_tokens = 0;
  int32_t max_prompt_tokens = 0;
};

// INVALID_ARGUMENT naming the field, its value and the limit; NOT_FOUND for another model or an
// adapter; UNIMPLEMENTED for what only later workers know; FAILED_PRECONDITION where the model is
// not the one expected. The request's key is left 0.
absl::StatusOr<Request> ValidateSubmit(const v1::WorkerSubmit& submit, const SubmitLimits& limits,
                                       absl::Time now);

}  // namespace caravan
