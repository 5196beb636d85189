#include "worker/model/runner/step_layout.h"

#include <algorithm>

#include "common/status.h"

namespace caravan {

StepLayout LayOutStep(const StepPlan& plan) {
  StepLayout layout;
  std::vector<int32_t> sample_rows(plan.work.size(), -1);
  for (const bool decodes : {true, false}) {
    for (size_t i = 0; i < plan.work.size(); ++i) {
      const SlotWork& work = plan.work[i];
      if ((work.num_tokens == 1) != decodes) continue;
      StepRow row;
      row.slot = work.slot;
      row.start_position = work.start_position;
      row.num_tokens = work.num_tokens;
      row.first_token = layout.num_tokens;
      if (work.sample) row.sample_row = sample_rows[i] = layout.num_samples++;
      layout.rows.push_back(row);
      layout.num_tokens += work.num_tokens;
      layout.num_decodes += decodes;
      int32_t& context = decodes ? layout.decode_context : layout.prefill_context;
      context = std::max(context, work.start_position + work.num_tokens);
    }
  }
  for (size_t i = 0; i < plan.work.size(); ++i) {
    if (plan.work[i].sample) layout.drawn.push_back({plan.work[i].slot, sample_rows[i]});
  }
  return layout;
}

void PadStep(int32_t num_rows, StepLayout* layout) {
  CARAVAN_CHECK(layout->decodes_only());
  while (static_cast<int32_t>(layout->rows.size()) < num_rows) {
    StepRow row;
    row.first_token = layout->num_tokens++;
    row.sample_row = layout->num_samples++;
    layout->rows.push_back(row);
    ++layout->num_decodes;
  }
}

std::vector<int32_t> DecodeBuckets(int32_t max_rows) {
  std::vector<int32_t> buckets;
  for (int32_t rows = 1; rows < max_rows;) {
    buckets.push_back(rows);
    rows += rows < 16 ? rows : rows < 64 ? 16 : rows < 256 ? 32 : 256;
  }
  buckets.push_back(max_rows);
  return buckets;
}

}  // namespace caravan
