// What a rank knows of one running sequence: its tokens, its block table, how it is sampled.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sampling.h"
#include "worker/engine/step_plan.h"

namespace caravan {

// Plans come from the engine, perhaps over a wire: what contradicts the state is an INTERNAL error,
// never a wild read.
class SlotState {
 public:
  // Takes the slot for a sequence; its block table is empty.
  void Setup(const SlotSetup& setup, int32_t vocab_size);
  void Release() { *this = SlotState(); }
  bool active() const { return active_; }

  // Applies `work`'s token ids and blocks and checks that its positions have tokens and blocks.
  absl::Status BeginWork(const SlotWork& work, int32_t num_blocks, int32_t block_tokens);

  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const int32_t> blocks() const { return blocks_; }
  int32_t prompt_tokens() const { return prompt_tokens_; }

  // How the token of `position` is drawn, given the tokens before it. Points into this slot until
  // its next change.
  SamplingRow RowFor(int32_t position);

  // The drawn token of `position`; what was known from there on is forgotten (a rollback).
  void SetToken(int32_t position, int32_t token_id);

 private:
  absl::Status ReplaceTokens(const SlotWork& work);
  float TopP() const;
  void AddBadWords(std::span<const int32_t> history);
  void AddBias(int32_t token_id, float bias);

  bool active_ = false;
  int32_t vocab_size_ = 0;
  int32_t prompt_tokens_ = 0;
  uint32_t sample_index_ = 0;
  SamplingParams sampling_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> blocks_;
  std::vector<TokenBias> biases_;
};

}  // namespace caravan
