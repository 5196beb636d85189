#include "worker/engine/sequence.h"

#include <algorithm>
#include <utility>

namespace caravan {

SequenceRank RankOf(const Request& request, absl::Time arrival, uint64_t order,
                    int32_t sample_index) {
  const absl::Time start = std::min(arrival, request.deadline - kHeadStartOfDeadline);
  return {start + request.priority * kHeadStartPerPriority, order, sample_index};
}

Sequence::Sequence(std::shared_ptr<const Request> r, SequenceRank sequence_rank,
                   int32_t block_tokens)
    : request(std::move(r)), rank(sequence_rank), tokens(request->prompt), table(block_tokens) {}

FinishReason Sequence::Append(int32_t token, int32_t max_length) {
  tokens.push_back(token);
  return FinishReasonOf(request->sampling, tokens, {emitted(), known(), max_length});
}

}  // namespace caravan
