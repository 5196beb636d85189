// The Encode phase: which texts of a request go to the tokenizer, and what comes of the answer.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "caravan/v1/tokenizer.pb.h"
#include "caravan/v1/worker.pb.h"
#include "gateway/generation/decode_sequence.h"
#include "gateway/generation/request.h"

namespace caravan {

// A prompt that fits its model.
struct EncodedPrompt {
  std::vector<int32_t> token_ids;
  std::vector<std::vector<int32_t>> bad_words;  // token sequences: of the words, and as given
  // With beams: of the stop strings, so that a beam ends during the search where it is likely to
  // hold one; the text decides in the end.
  std::vector<std::vector<int32_t>> stop_sequences;
  int32_t max_tokens = 0;  // resumed ones included
};

// INVALID_ARGUMENT names the prompt's part or the bad word that is larger than a tokenizer takes.
absl::Status CheckTexts(const RequestSpec& spec, const TokenizerBounds& bounds);

// The texts of the prompt, then each bad word twice: as it stands at the start of a text and inside
// one; with beams the stop strings too. Without inputs no call is needed.
v1::EncodeRequest MakeEncodeRequest(const RequestSpec& spec, const Vocabulary& vocabulary);

// INVALID_ARGUMENT where the prompt or a bad word does not fit, FAILED_PRECONDITION where the
// tokenizer's ids are not the model's.
absl::StatusOr<EncodedPrompt> AssemblePrompt(const ValidatedRequest& request,
                                             const v1::EncodeResponse& response);

// The prompt's own text where all its parts are texts; nullopt: its ids must be decoded.
std::optional<std::string> PromptText(const RequestSpec& spec);

// What the worker is told, but for key, attempt and time left.
v1::WorkerSubmit MakeWorkerSubmit(const ValidatedRequest& request, const EncodedPrompt& prompt,
                                  const Vocabulary& vocabulary);

// Keeps the prefix caches of tenants and adapters apart; the same in every gateway.
uint64_t CacheSalt(const RequestSpec& spec);

}  // namespace caravan
