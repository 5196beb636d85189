// Errors about a row's request to the engine, told in terms of the tensors that it was made of.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "gateway/triton/protocol/request_check.h"

namespace caravan {

// The names under which a request gives what its model's clients name differently.
struct TensorNames {
  explicit TensorNames(const CheckedRequest& request);

  std::string prompt;
  std::string max_tokens;
  std::string min_tokens;
  std::string bad_words;
  std::string stop_words;
  std::string top_k;
  std::string top_p;
  std::string length_penalty;
};

// `status` names a field of the native API ("sampling.bad_words[2] has …"); the result names the
// tensor, the row and the word ("INPUT_2 of row 0: word 2 has …"). Other errors come back as they
// are.
absl::Status NameTensors(const CheckedRequest& request, size_t row, const absl::Status& status);

}  // namespace caravan
