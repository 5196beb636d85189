#include "gateway/triton/protocol/beam_partials.h"

#include <algorithm>
#include <utility>

namespace caravan {
namespace {

constexpr size_t kMaxKeptBytes = 4 << 20;  // of all rows

}  // namespace

size_t NumBytes(const BeamsAtStep& at) {
  size_t bytes = 0;
  for (const OutputSequence& beam : at.beams) {
    bytes += beam.text.size() + beam.token_ids.size() * sizeof(int32_t) +
             beam.log_probs.size() * sizeof(float) + beam.cum_log_probs.size() * sizeof(double) +
             beam.text_ends.size() * sizeof(uint32_t);
  }
  return bytes;
}

void BeamPartials::Add(size_t row, BeamsAtStep shown) {
  Row& kept = rows_[row];
  if (shown.steps <= kept.last_steps) return;
  kept.last_steps = shown.steps;
  kept.num_bytes += NumBytes(shown);
  kept.shown.push_back(std::move(shown));
  const size_t most = kMaxKeptBytes / rows_.size();
  while (kept.num_bytes > most && kept.shown.size() > 1) DropOldest(&kept);
}

void BeamPartials::DropOldest(Row* row) const {
  row->num_bytes -= NumBytes(row->shown.front());
  row->shown.pop_front();
}

bool BeamPartials::HasEnded(BatchOutput* output, size_t row) const {
  for (size_t i = row * beam_width_; i < (row + 1) * beam_width_; ++i) {
    if (!output->sequence(i).ended) return false;
  }
  return true;
}

std::optional<BeamsAtStep> BeamPartials::Next(BatchOutput* output) {
  int32_t steps = 0;
  for (bool settled = false; !settled;) {
    settled = true;
    for (size_t row = 0; row < rows_.size(); ++row) {
      std::deque<BeamsAtStep>& shown = rows_[row].shown;
      while (!shown.empty() && shown.front().steps < steps) DropOldest(&rows_[row]);
      if (shown.empty() && !HasEnded(output, row)) return std::nullopt;
      if (shown.empty() || shown.front().steps == steps) continue;
      steps = shown.front().steps;
      settled = false;
    }
  }
  if (steps == 0) return std::nullopt;  // all have ended, and shown what they had
  BeamsAtStep all;
  all.steps = steps;
  for (size_t row = 0; row < rows_.size(); ++row) {
    Row& kept = rows_[row];
    const size_t bytes = kept.shown.empty() ? 0 : NumBytes(kept.shown.front());
    for (size_t beam = 0; beam < beam_width_; ++beam) {
      all.beams.push_back(kept.shown.empty() ? output->sequence(row * beam_width_ + beam)
                                             : std::move(kept.shown.front().beams[beam]));
    }
    if (kept.shown.empty()) continue;
    kept.shown.pop_front();
    kept.num_bytes -= bytes;
  }
  return all;
}

}  // namespace caravan
