// An engine on a FakeModelRunner without a thread, and what its clients would have seen.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/engine/fake_model_runner.h"
#include "worker/engine/beam_search.h"
#include "worker/engine/engine.h"

namespace caravan {

struct Output {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kNone;
  absl::Status status;
  int32_t cached_prompt_tokens = 0;
  int32_t events = 0;
  float cumulative_logprob = 0;
  std::vector<float> logprobs;

  bool operator==(const Output& other) const {
    return tokens == other.tokens && finish == other.finish;
  }
};

inline std::vector<int32_t> Tokens(int32_t count, int32_t first = 1) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

inline Request MakeRequest(RequestKey key, std::vector<int32_t> prompt, int32_t max_tokens) {
  Request request;
  request.key = key;
  request.prompt = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  return request;
}

inline bool EndsInOne(const std::vector<int32_t>& tokens,
                      const std::vector<std::vector<int32_t>>& words) {
  return std::any_of(words.begin(), words.end(), [&](const auto& word) {
    return tokens.size() >= word.size() && std::equal(word.rbegin(), word.rend(), tokens.rbegin());
  });
}

class EngineHarness {
 public:
  EngineHarness(EngineOptions options, const RunnerLimits& limits) : runner_(limits) {
    options.check_invariants = true;
    engine_ = std::make_unique<Engine>(
        options, &runner_, [this](const std::vector<TokenEvent>& events) { Receive(events); },
        [this] { return now_; });
  }

  Engine& engine() { return *engine_; }
  FakeModelRunner& runner() { return runner_; }
  void Advance(absl::Duration time) { now_ += time; }
  absl::Time now() const { return now_; }

  absl::Status Submit(const Request& request) {
    absl::Status status = engine_->Submit(request);
    if (status.ok()) {
      num_resumed_[request.key] = request.num_resumed;
      for (int32_t i = 0; i < request.num_sequences(); ++i) outputs_.erase({request.key, i});
    }
    return status;
  }

  // Turns until all is quiet. Returns how many.
  int32_t RunUntilIdle() {
    int32_t turns = 0;
    while (engine_->StepOnce()) {
      EXPECT_LT(++turns, 100000) << "the engine does not come to rest";
      if (turns >= 100000) break;
    }
    return turns;
  }

  // Turns until a sequence has so many tokens.
  void RunUntilTokens(RequestKey key, size_t count, int32_t sample = 0) {
    for (int32_t turns = 0; OutputOf(key, sample).tokens.size() < count; ++turns) {
      ASSERT_LT(turns, 10000) << "request " << key << " does not get " << count << " tokens";
      engine_->StepOnce();
    }
  }

  const Output& OutputOf(RequestKey key, int32_t sample = 0) { return outputs_[{key, sample}]; }
  const std::map<std::pair<RequestKey, int32_t>, Output>& outputs() const { return outputs_; }
  // Of a search before its end: its beams, look by look.
  const std::vector<std::vector<Output>>& LooksAt(RequestKey key) { return looks_[key]; }
  int32_t deliveries() const { return deliveries_; }
  const std::vector<RequestKey>& first_tokens() const { return first_tokens_; }  // in that order
  const std::vector<std::string>& errors() const { return errors_; }

  // What the request answers when it runs alone on a machine without limits but the two given.
  Output Alone(const Request& request, int32_t sample = 0) const {
    const RunnerLimits& limits = runner_.limits();
    const int32_t max_length =
        std::min(limits.max_context_tokens, limits.num_blocks * limits.block_tokens + 1);
    const int32_t prompt_tokens = static_cast<int32_t>(request.prompt.size()) - request.num_resumed;
    const auto& stops = request.sampling.stop_token_ids;
    std::vector<int32_t> tokens = request.prompt;
    Output output;
    int32_t generated = request.num_resumed;
    while (output.finish == FinishReason::kNone) {
      if (generated >= request.sampling.max_tokens) {
        output.finish = FinishReason::kLength;
        break;
      }
      const int32_t token = runner_.Draw(tokens, prompt_tokens, request.sampling, sample);
      tokens.push_back(token);
      output.tokens.push_back(token);
      const bool stop = generated >= request.sampling.min_tokens &&
                        std::find(stops.begin(), stops.end(), token) != stops.end();
      ++generated;
      if (stop) {
        output.finish = FinishReason::kStopToken;
      } else if (generated > request.sampling.min_tokens &&
                 EndsInOne(tokens, request.sampling.stop_sequences)) {
        output.finish = FinishReason::kStopSequence;
      } else if (static_cast<int32_t>(tokens.size()) >= max_length) {
        output.finish = FinishReason::kLength;
      }
    }
    return output;
  }

  // The beams that the request answers, by a search that keeps whole token lists and sorts all that
  // could follow.
  std::vector<Output> BeamsAlone(const Request& request) const {
    struct Beam {
      std::vector<int32_t> tokens;
      Output output;
    };
    const RunnerLimits& limits = runner_.limits();
    const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
    const int32_t width = request.beams.width;
    const int32_t max_length = MaxBeamLength(limits, prompt_tokens, width);
    const auto score = [&](const Beam& beam, int32_t place) {
      const double length = static_cast<double>(beam.tokens.size());
      return beam.output.cumulative_logprob /
                 std::pow(length, double{request.beams.length_penalty}) +
             double{request.beams.diversity_rate} * place;
    };
    std::vector<Beam> beams = {{request.prompt, {}}};
    const auto is_live = [](const Beam& b) { return b.output.finish == FinishReason::kNone; };
    while (std::any_of(beams.begin(), beams.end(), is_live)) {
      std::vector<std::pair<double, Beam>> all;
      for (const Beam& beam : beams) {
        if (!is_live(beam)) {
          all.emplace_back(score(beam, 0), beam);
          continue;
        }
        int32_t place = 0;
        for (const auto& [token, logprob] :
             runner_.Candidates(beam.tokens, prompt_tokens, request.sampling, width)) {
          Beam next = beam;
          next.tokens.push_back(token);
          next.output.tokens.push_back(token);
          next.output.logprobs.push_back(logprob);
          next.output.cumulative_logprob += logprob;
          const auto generated = static_cast<int32_t>(next.output.tokens.size());
          const auto& stops = request.sampling.stop_token_ids;
          if (generated > request.sampling.min_tokens &&
              std::find(stops.begin(), stops.end(), token) != stops.end()) {
            next.output.finish = FinishReason::kStopToken;
          } else if (generated > request.sampling.min_tokens &&
                     EndsInOne(next.tokens, request.sampling.stop_sequences)) {
            next.output.finish = FinishReason::kStopSequence;
          } else if (generated >= request.sampling.max_tokens ||
                     static_cast<int32_t>(next.tokens.size()) >= max_length) {
            next.output.finish = FinishReason::kLength;
          }
          all.emplace_back(score(next, place++), std::move(next));
        }
      }
      std::stable_sort(all.begin(), all.end(),
                       [](const auto& a, const auto& b) { return a.first > b.first; });
      all.resize(std::min(all.size(), static_cast<size_t>(width)));
      beams.clear();
      for (auto& entry : all) beams.push_back(std::move(entry.second));
    }
    std::vector<Output> outputs;
    for (Beam& beam : beams) outputs.push_back(std::move(beam.output));
    return outputs;
  }

  void ExpectBeamsAlone(const Request& request) {
    const std::vector<Output> beams = BeamsAlone(request);
    for (int32_t i = 0; i < request.beams.width; ++i) {
      const Output& output = OutputOf(request.key, i);
      const auto where = ::testing::Message() << "request " << request.key << " beam " << i;
      EXPECT_EQ(output.tokens, beams[i].tokens) << where;
      EXPECT_EQ(output.logprobs, beams[i].logprobs) << where;
      EXPECT_EQ(output.cumulative_logprob, beams[i].cumulative_logprob) << where;
      EXPECT_STREQ(NameOf(output.finish), NameOf(beams[i].finish)) << where;
    }
  }

  void ExpectAlone(const Request& request) {
    for (int32_t i = 0; i < request.num_samples; ++i) {
      const Output alone = Alone(request, i);
      EXPECT_EQ(OutputOf(request.key, i).tokens, alone.tokens)
          << "request " << request.key << " sample " << i;
      EXPECT_STREQ(NameOf(OutputOf(request.key, i).finish), NameOf(alone.finish));
    }
  }

  void ExpectClean() {
    EXPECT_EQ(runner_.errors(), std::vector<std::string>());
    EXPECT_EQ(errors_, std::vector<std::string>());
  }
  // Nothing runs, and no block has leaked.
  void ExpectEmpty() {
    const EngineStats stats = engine_->Stats();
    EXPECT_EQ(stats.used_blocks, 0);
    EXPECT_EQ(stats.free_blocks + stats.cached_blocks, stats.total_blocks);
    EXPECT_EQ(stats.running_sequences, 0);
    EXPECT_EQ(stats.waiting_requests, 0);
    ExpectClean();
  }

 private:
  void Fail(std::string error) {
    if (errors_.size() < 20) errors_.push_back(std::move(error));
  }

  // The beams of a look come one after the other.
  void Look(const TokenEvent& event) {
    std::vector<std::vector<Output>>& looks = looks_[event.key];
    if (event.sample_index == 0)
      looks.push_back(looks.empty() ? std::vector<Output>() : looks.back());
    std::vector<Output>& beams = looks.back();
    beams.resize(std::max<size_t>(beams.size(), static_cast<size_t>(event.sample_index) + 1));
    Output& beam = beams[static_cast<size_t>(event.sample_index)];
    const auto same = static_cast<size_t>(event.first_position);
    if (same > beam.tokens.size()) Fail("a look has a gap");
    beam.tokens.resize(same);
    beam.logprobs.resize(same);
    for (const EmittedToken& token : event.tokens) {
      beam.tokens.push_back(token.token_id);
      beam.logprobs.push_back(token.logprob);
    }
    beam.cumulative_logprob = event.cumulative_logprob;
  }

  void Receive(const std::vector<TokenEvent>& events) {
    ++deliveries_;
    for (const TokenEvent& event : events) {
      if (event.snapshot) {
        Look(event);
        continue;
      }
      const std::string name = absl::StrCat("request ", event.key, " sample ", event.sample_index);
      Output& output = outputs_[{event.key, event.sample_index}];
      if (output.finish != FinishReason::kNone) Fail(name + " goes on after its end");
      const size_t position = num_resumed_[event.key] + output.tokens.size();
      if (static_cast<size_t>(event.first_position) != position) {
        Fail(absl::StrCat(name, " goes on at ", event.first_position, ", not ", position));
      }
      if (output.events++ == 0) {
        output.cached_prompt_tokens = event.cached_prompt_tokens;
        if (!event.tokens.empty()) first_tokens_.push_back(event.key);
      }
      for (const EmittedToken& token : event.tokens) {
        output.tokens.push_back(token.token_id);
        output.logprobs.push_back(token.logprob);
      }
      output.cumulative_logprob = event.cumulative_logprob;
      output.finish = event.finish;
      output.status = event.status;
    }
  }

  FakeModelRunner runner_;
  absl::Time now_ = absl::FromUnixSeconds(1000000);
  std::map<std::pair<RequestKey, int32_t>, Output> outputs_;
  std::map<RequestKey, std::vector<std::vector<Output>>> looks_;
  std::map<RequestKey, int32_t> num_resumed_;
  std::vector<RequestKey> first_tokens_;
  std::vector<std::string> errors_;
  int32_t deliveries_ = 0;
  std::unique_ptr<Engine> engine_;
};

}  // namespace caravan
