// The order in which a device runs a step's sequences, and how they are padded for CUDA graphs.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/slot_tables.h"
#include "worker/engine/step_plan.h"

namespace caravan {

// The sequences of a step: those with one token first, in the plan's order otherwise.
struct StepLayout {
  struct Drawn {
    int32_t slot = 0;
    int32_t sample_row = 0;
  };

  std::vector<StepRow> rows;
  std::vector<Drawn> drawn;     // in the plan's order
  int32_t num_decodes = 0;      // rows with one token
  int32_t num_tokens = 0;       // padding included
  int32_t num_samples = 0;      // rows of logits, padding included
  int32_t decode_context = 0;   // longest context of the rows with one token
  int32_t prefill_context = 0;  // of the others

  // Every row has one token and draws: what a decode graph runs.
  bool decodes_only() const {
    return num_tokens == num_samples && num_tokens == static_cast<int32_t>(rows.size());
  }
};

StepLayout LayOutStep(const StepPlan& plan);

// Adds padding rows that each have a token and a row of logits, until there are `num_rows`.
// REQUIRES: decodes_only().
void PadStep(int32_t num_rows, StepLayout* layout);

// Numbers of rows for which decode graphs are made, ascending, the last one `max_rows`: dense
// enough that padding costs little, since a step's time grows slowly with its rows.
std::vector<int32_t> DecodeBuckets(int32_t max_rows);

}  // namespace caravan
