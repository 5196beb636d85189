// What the sampling tensors of ensemble and fastertransformer say, in this project's terms.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/generation/request.h"
#include "gateway/served_model.h"
#include "gateway/triton/protocol/request_check.h"

namespace caravan {

// What a row asks for, but for its prompt.
struct RowParameters {
  RequestSpec::Sampling sampling;
  RequestSpec::Stopping stopping;
  // Fills the tail of output_ids, and ends the row unless it is outside the vocabulary; unset: the
  // tokenizer's own does both.
  std::optional<uint32_t> end_id;
  std::optional<uint32_t> start_id;  // the prompt of a row without tokens
  // output_log_probs are renormalized among the k most probable, cum_log_probs are not.
  uint32_t top_k_of_log_probs = 0;  // 0: not renormalized
};

// Element 0 of these rules for the whole request.
struct GenerationParameters {
  std::vector<RowParameters> rows;
  bool return_log_probs = false;
  uint32_t beam_width = 1;
  bool exclude_input = false;  // outputs begin after the prompt
  bool delta = false;          // each response has only what is new
  bool partial = false;        // partial responses are sent
  int stream_interval = 5;
};

struct GenerationDefaults {
  int stream_interval = 5;
  bool stop_on_tokenizer_eos = false;
  bool decoupled = true;  // streams have partial responses unless a request says otherwise
};

// INVALID_ARGUMENT names the tensor, the row, the value and the limit; UNIMPLEMENTED what can't be
// had. Word lists in text form are checked and put in; those of token ids too.
absl::StatusOr<GenerationParameters> ReadGenerationParameters(const CheckedRequest& request,
                                                              const ServedModel& model,
                                                              const GenerationDefaults& defaults);

}  // namespace caravan
