// One step, as plain data: what the engine decides, what every rank runs, what goes over the wire
// to followers.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/engine/request.h"

namespace caravan {

// A sequence that takes a slot: everything that the runner must know about it. Sent once; later
// steps name the slot.
struct SlotSetup {
  int32_t slot = 0;
  std::vector<int32_t>
      tokens;  // prompt, then the tokens generated so far (after a preemption or a resume)
  int32_t prompt_tokens = 0;  // how many of `tokens` are prompt: the others count as output
  SamplingParams sampling;
  uint32_t sample_index = 0;
};

// Blocks appended to a slot's table of one KV group (today there is one group, 0).
struct NewBlocks {
  int32_t kv_group = 0;
  std::vector<int32_t> blocks;
};

// A block of the slot's table replaced (copy on write): table[index] = block.
struct ReplacedBlock {
  int32_t kv_group = 0;
  int32_t index = 0;
  int32_t block = 0;
};

// `num_tokens` tokens of one slot, from absolute position `start_position`. The runner knows their
// ids: from the slot's tokens, or because an earlier step (perhaps still running) sampled them, or
// from `token_ids`.
struct SlotWork {
  int32_t slot = 0;
  int32_t start_position = 0;
  int32_t num_tokens = 0;
  bool sample =
      false;  // draw the token of position start_position + num_tokens from the last row's logits
  // Chosen by the engine (beams): the ids of positions [start_position, start_position +
  // token_ids.size()), at most num_tokens. They take the place of whatever the runner knows from
  // start_position on, drawn tokens included; a later position is known only if it is drawn again.
  // The engine gives them only once the slot's earlier steps are collected.
  std::vector<int32_t> token_ids;
  std::vector<NewBlocks> new_blocks;
  std::vector<ReplacedBlock> replaced_blocks;
};

struct KvBlockCopy {
  int32_t kv_group = 0;
  int32_t from = 0;
  int32_t to = 0;
};

struct StepPlan {
  uint64_t step = 0;                    // 1, 2, … within an epoch
  std::vector<int32_t> released_slots;  // first: their state may be dropped
  std::vector<SlotSetup> setups;        // then: slots (re)assigned, block tables empty
  std::vector<KvBlockCopy> copies;      // then: before any write of this step
  std::vector<SlotWork> work;           // then: run
  int32_t num_tokens() const {
    int32_t sum = 0;
    for (const SlotWork& w : work) sum += w.num_tokens;
    return sum;
  }
};

// Tokens drawn for one slot by one step: one today, zero to k with speculation.
struct SlotResult {
  int32_t slot = 0;
  std::vector<EmittedToken> tokens;
  // False where the model's logits of the last of them were no numbers: then it means nothing.
  bool finite = true;
};

struct StepResult {
  uint64_t step = 0;
  std::vector<SlotResult> slots;  // those with `sample`, in the plan's order
  double run_seconds = 0;         // device time of the step, for the cost model
};

}  // namespace caravan
