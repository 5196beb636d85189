// The engine's state of one sequence.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "worker/engine/beam_search.h"
#include "worker/engine/block_table.h"
#include "worker/engine/request.h"

namespace caravan {

// Who comes first: smaller is sooner. A level of priority is worth a fixed head start, so that a
// low priority waits longer but never for ever; a near deadline is worth a smaller one.
struct SequenceRank {
  absl::Time start;
  uint64_t order = 0;  // of arrival
  int32_t sample_index = 0;

  auto operator<=>(const SequenceRank& other) const {
    if (start != other.start) {
      return start < other.start ? std::strong_ordering::less : std::strong_ordering::greater;
    }
    if (order != other.order) return order <=> other.order;
    return sample_index <=> other.sample_index;
  }
  bool operator==(const SequenceRank&) const = default;
};

constexpr absl::Duration kHeadStartPerPriority = absl::Seconds(30);
constexpr absl::Duration kHeadStartOfDeadline = absl::Seconds(5);

SequenceRank RankOf(const Request& request, absl::Time arrival, uint64_t order,
                    int32_t sample_index);

enum class SequenceState : uint8_t {
  kForking,  // waits for its parent's prompt to be computed, or behind the first beam of its group;
             // not known to the scheduler
  kWaiting,
  kRunning,  // has a slot and blocks
  kFinished,
};

struct Sequence;
using SequencePtr = std::shared_ptr<Sequence>;

// The beams of one request that are computed: they take their slots together and lose them
// together, and none goes on before all have drawn.
struct BeamGroup {
  int32_t width = 0;
  std::vector<SequencePtr> live;     // in the order of the search; the first waits for all
  std::vector<int32_t> spare_slots;  // while it runs: for beams to come
  int32_t sequences_made = 1;
};

// The positions of a sequence, left to right:
//   [0, computed)                  KV is written by submitted steps
//   [computed, length)             to be computed
//   [tokens.size(), length)        drawn by steps in flight: the runner alone knows these tokens
struct Sequence {
  Sequence(std::shared_ptr<const Request> request, SequenceRank rank, int32_t block_tokens);

  int32_t prompt_length() const { return static_cast<int32_t>(request->prompt.size()); }
  int32_t known() const { return static_cast<int32_t>(tokens.size()); }
  int32_t length() const { return known() + in_flight; }
  // Tokens of the output, those of earlier attempts included.
  int32_t emitted() const { return known() - prompt_length() + request->num_resumed; }
  int32_t generated() const { return emitted() + in_flight; }

  // Its first `computed` positions are yet to be computed by another sequence.
  bool awaits_shared() const {
    return shared_from != nullptr && shared_from->computed < shared_positions;
  }

  // Positions that can be computed now; none once the last token has been drawn, nor while others
  // are to be chosen by a search or computed by another sequence.
  int32_t lacking(int32_t max_length) const {
    if (awaits_shared()) return 0;
    if (group != nullptr) return in_flight > 0 ? 0 : known() - computed;
    const bool complete = generated() >= request->sampling.max_tokens || length() >= max_length;
    return complete ? 0 : length() - computed;
  }

  // The token was drawn by a step that is collected now. Says whether it is the last one.
  FinishReason Append(int32_t token, int32_t max_length);

  std::shared_ptr<const Request> request;
  SequenceRank rank;
  BlockHash root;  // parent of the first block's hash

  std::vector<int32_t> tokens;  // prompt, then what was generated and collected
  int32_t in_flight = 0;
  int32_t computed = 0;
  int32_t planned = 0;  // tokens in the step that is being planned

  int32_t slot = -1;
  uint64_t first_step = 0;  // in that slot
  BlockTable table;
  uint32_t preemptions = 0;   // draws submitted before the last one are dropped
  int32_t cached_tokens = 0;  // of the prompt, found in the cache when it was first admitted

  SequencePtr parent;              // whose blocks it may fork, until it runs for the first time
  std::vector<SequencePtr> forks;  // that wait for this one's prompt

  // Beams only.
  BeamGroup* group = nullptr;
  std::optional<BeamCandidates> candidates;  // drawn, and the others' are awaited
  // Whose blocks of the first positions it holds too, which that one computes.
  SequencePtr shared_from;
  int32_t shared_positions = 0;
  int32_t told = 0;  // tokens that the runner has been told

  SequenceState state = SequenceState::kWaiting;
  bool set_up = false;  // the runner was told of the slot
  bool preempted = false;
  bool announced = false;  // an event was sent
};

}  // namespace caravan
