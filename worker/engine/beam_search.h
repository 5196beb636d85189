// Beam search: which beams go on, given each live beam's best tokens. Knows no blocks and no slots.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "worker/engine/model_runner.h"
#include "worker/engine/request.h"

namespace caravan {

// A beam's best tokens with their log probabilities, greatest first.
using BeamCandidates = std::vector<std::pair<int32_t, float>>;

// A beam that goes on: a token appended to the live beam `parent`.
struct BeamChoice {
  int32_t parent = 0;  // its place among the live beams before
  int32_t token_id = 0;
};

struct BeamResult {
  std::vector<EmittedToken> tokens;
  float cumulative_logprob = 0;
  FinishReason finish = FinishReason::kNone;
};

// The online beam search of FasterTransformer's LLaMA. There is one beam at first: the prompt. In
// each step every live beam offers its `width` best tokens and every finished beam offers itself.
// The score of an offer is
//   cumulative log probability / length^length_penalty + diversity_rate · place,
// where length counts prompt and output, the offered token included (no division where the penalty
// is 0 or the length 1), and place is 0 for a beam's best token, 1 for its second, …; a finished
// beam has place 0. The `width` greatest scores are the next beams, in this order; among equal ones
// the earlier beam's, then the better place. A beam finishes like a sequence does; it keeps its
// place only as long as its score does. The search ends when all beams have finished.
class BeamSearch {
 public:
  // No beam grows beyond `max_length` tokens, prompt included.
  BeamSearch(std::shared_ptr<const Request> request, int32_t max_length);

  // One step: candidates[i] are those of live beam i; all but the first `width` are left out.
  // Returns the live beams' origins, in their new order. Where no token is possible at all the
  // beams end as they are, with kLength.
  std::vector<BeamChoice> Advance(const std::vector<BeamCandidates>& candidates);

  int32_t num_live() const { return num_live_; }
  bool ended() const { return num_live_ == 0; }

  // How often it has advanced: the tokens of a live beam.
  int32_t num_steps() const { return num_steps_; }

  // `width` beams as they stand, the best first; those that there never were (a vocabulary of fewer
  // tokens) are empty.
  std::vector<BeamResult> Results() const;

 private:
  // Outputs are paths through a tree that only grows: node 0 is the empty output.
  struct Node {
    int32_t parent = 0;
    EmittedToken token;
  };
  struct Beam {
    int32_t node = 0;
    int32_t length = 0;  // prompt included
    float cumulative_logprob = 0;
    FinishReason finish = FinishReason::kNone;
  };
  struct Offer {
    double score = 0;
    int32_t beam = 0;
    int32_t place = 0;
    int32_t live = -1;  // the beam's place among the live ones; -1: it has finished
    float cumulative_logprob = 0;
  };

  double Score(float cumulative_logprob, int32_t length, int32_t place) const;
  std::vector<Offer> BestOffers(const std::vector<BeamCandidates>& candidates) const;
  Beam Extend(const Beam& beam, const Offer& offer, const BeamCandidates& candidates);
  FinishReason FinishOf(const Beam& beam) const;
  std::vector<int32_t> LastTokens(const Beam& beam, size_t count) const;

  const std::shared_ptr<const Request> request_;
  const int32_t max_length_;
  std::vector<Node> nodes_;
  std::vector<Beam> beams_;
  int32_t num_live_ = 1;
  int32_t num_steps_ = 0;
};

// How the runner draws for a beam: cheaply, since what counts are the log probabilities beside it.
SamplingParams BeamSampling(const Request& request);

// The longest that `width` beams of a prompt can become on a machine of their own: the prompt's
// full blocks are shared, those behind are not, and half as many are in the act of being copied.
int32_t MaxBeamLength(const RunnerLimits& limits, int32_t prompt_tokens, int32_t width);

}  // namespace caravan
