#include "worker/engine/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/status.h"

namespace caravan {

BeamSearch::BeamSearch(std::shared_ptr<const Request> request, int32_t max_length)
    : request_(std::move(request)), max_length_(max_length), nodes_(1) {
  beams_.push_back({.node = 0, .length = static_cast<int32_t>(request_->prompt.size())});
}

std::vector<BeamChoice> BeamSearch::Advance(const std::vector<BeamCandidates>& candidates) {
  CARAVAN_CHECK(static_cast<int32_t>(candidates.size()) == num_live_, "live=", num_live_);
  std::vector<Beam> next;
  std::vector<BeamChoice> choices;
  for (const Offer& offer : BestOffers(candidates)) {
    const Beam& beam = beams_[static_cast<size_t>(offer.beam)];
    if (offer.live < 0) {
      next.push_back(beam);
      continue;
    }
    next.push_back(Extend(beam, offer, candidates[static_cast<size_t>(offer.live)]));
    if (next.back().finish != FinishReason::kNone) continue;
    choices.push_back({offer.live, nodes_.back().token.token_id});
  }
  if (next.empty()) {
    for (Beam& beam : beams_) beam.finish = FinishReason::kLength;
  } else {
    beams_ = std::move(next);
  }
  num_live_ = static_cast<int32_t>(choices.size());
  ++num_steps_;
  return choices;
}

std::vector<BeamSearch::Offer> BeamSearch::BestOffers(
    const std::vector<BeamCandidates>& candidates) const {
  std::vector<Offer> offers;
  const size_t width = static_cast<size_t>(request_->beams.width);
  int32_t live = 0;
  for (size_t b = 0; b < beams_.size(); ++b) {
    const Beam& beam = beams_[b];
    Offer offer;
    offer.beam = static_cast<int32_t>(b);
    offer.cumulative_logprob = beam.cumulative_logprob;
    if (beam.finish != FinishReason::kNone) {
      offer.score = Score(beam.cumulative_logprob, beam.length, 0);
      offers.push_back(offer);
      continue;
    }
    offer.live = live++;
    const BeamCandidates& best = candidates[static_cast<size_t>(offer.live)];
    for (size_t place = 0; place < std::min(width, best.size()); ++place) {
      offer.place = static_cast<int32_t>(place);
      offer.cumulative_logprob = beam.cumulative_logprob + best[place].second;
      offer.score = Score(offer.cumulative_logprob, beam.length + 1, offer.place);
      offers.push_back(offer);
    }
  }
  // They stand in the order that decides among equals.
  std::stable_sort(offers.begin(), offers.end(),
                   [](const Offer& a, const Offer& b) { return a.score > b.score; });
  offers.resize(std::min(width, offers.size()));
  return offers;
}

double BeamSearch::Score(float cumulative_logprob, int32_t length, int32_t place) const {
  const BeamParams& params = request_->beams;
  double score = cumulative_logprob;
  if (params.length_penalty != 0 && length > 1) {
    score /= std::pow(static_cast<double>(length), static_cast<double>(params.length_penalty));
  }
  return score + static_cast<double>(params.diversity_rate) * place;
}

BeamSearch::Beam BeamSearch::Extend(const Beam& beam, const Offer& offer,
                                    const BeamCandidates& candidates) {
  const auto& [token_id, logprob] = candidates[static_cast<size_t>(offer.place)];
  Node node;
  node.parent = beam.node;
  node.token.token_id = token_id;
  node.token.logprob = logprob;
  const size_t listed = static_cast<size_t>(std::max(0, request_->sampling.num_logprobs));
  node.token.top_logprobs.assign(
      candidates.begin(),
      candidates.begin() + static_cast<ptrdiff_t>(std::min(listed, candidates.size())));
  nodes_.push_back(std::move(node));
  Beam next;
  next.node = static_cast<int32_t>(nodes_.size()) - 1;
  next.length = beam.length + 1;
  next.cumulative_logprob = offer.cumulative_logprob;
  next.finish = FinishOf(next);
  return next;
}

FinishReason BeamSearch::FinishOf(const Beam& beam) const {
  const SamplingParams& sampling = request_->sampling;
  size_t longest = 1;
  for (const auto& sequence : sampling.stop_sequences) {
    longest = std::max(longest, sequence.size());
  }
  return FinishReasonOf(
      sampling, LastTokens(beam, longest),
      {beam.length - static_cast<int32_t>(request_->prompt.size()), beam.length, max_length_});
}

std::vector<int32_t> BeamSearch::LastTokens(const Beam& beam, size_t count) const {
  std::vector<int32_t> tokens;
  int32_t node = beam.node;
  for (; node != 0 && tokens.size() < count; node = nodes_[static_cast<size_t>(node)].parent) {
    tokens.push_back(nodes_[static_cast<size_t>(node)].token.token_id);
  }
  const std::vector<int32_t>& prompt = request_->prompt;
  for (auto token = prompt.rbegin(); token != prompt.rend() && tokens.size() < count; ++token) {
    tokens.push_back(*token);
  }
  std::reverse(tokens.begin(), tokens.end());
  return tokens;
}

std::vector<BeamResult> BeamSearch::Results() const {
  std::vector<BeamResult> results;
  for (const Beam& beam : beams_) {
    BeamResult result;
    result.cumulative_logprob = beam.cumulative_logprob;
    result.finish = beam.finish;
    for (int32_t n = beam.node; n != 0; n = nodes_[static_cast<size_t>(n)].parent) {
      result.tokens.push_back(nodes_[static_cast<size_t>(n)].token);
    }
    std::reverse(result.tokens.begin(), result.tokens.end());
    results.push_back(std::move(result));
  }
  BeamResult none;
  none.finish = FinishReason::kLength;
  none.cumulative_logprob = -std::numeric_limits<float>::infinity();
  results.resize(static_cast<size_t>(request_->beams.width), none);
  return results;
}

SamplingParams BeamSampling(const Request& request) {
  SamplingParams sampling = request.sampling;
  if (request.beams.width == 1) return sampling;
  sampling.top_k = 1;
  sampling.top_p = 1;
  sampling.min_p = 0;
  sampling.top_p_decay = 1;
  if (sampling.temperature == 0) sampling.temperature = 1;
  sampling.processed_logprobs = true;
  sampling.num_logprobs = std::max(sampling.num_logprobs, request.beams.width);
  return sampling;
}

int32_t MaxBeamLength(const RunnerLimits& limits, int32_t prompt_tokens, int32_t width) {
  const int64_t shared = prompt_tokens / limits.block_tokens;
  const int64_t unshared = (limits.num_blocks - width / 2 - shared) / width;
  if (limits.num_blocks - width / 2 - shared < 0) return 0;
  return static_cast<int32_t>(
      std::min<int64_t>(limits.max_context_tokens, (shared + unshared) * limits.block_tokens + 1));
}

}  // namespace caravan
