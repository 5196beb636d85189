// Searches that have not ended, as partial responses: the beams of all rows after equally many
// steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "gateway/triton/protocol/batch_output.h"

namespace caravan {

// The beams of one row, or of all rows, after some steps.
struct BeamsAtStep {
  int32_t steps = 0;
  std::vector<OutputSequence> beams;
};

// Of all of them, without what leads their texts.
size_t NumBytes(const BeamsAtStep& at);

// Keeps what rows have shown until each has shown as much. Not thread-safe.
class BeamPartials {
 public:
  BeamPartials(size_t rows, size_t beam_width) : beam_width_(beam_width), rows_(rows) {}

  // A look at row `row`, whose steps ascend. One that does not is of a search that began again, and
  // is dropped. Where a row has too much of what other rows have not reached yet, its oldest goes.
  void Add(size_t row, BeamsAtStep shown);

  // The next step that all rows of `output` have shown, or have ended before: such a row shows its
  // end. Sequences that have not `ended` are as their search stood. nullopt: there is none yet.
  std::optional<BeamsAtStep> Next(BatchOutput* output);

 private:
  struct Row {
    std::deque<BeamsAtStep> shown;
    size_t num_bytes = 0;  // of them
    int32_t last_steps = 0;
  };

  bool HasEnded(BatchOutput* output, size_t row) const;
  void DropOldest(Row* row) const;

  const size_t beam_width_;
  std::vector<Row> rows_;
};

}  // namespace caravan
