// A ModelRunner that computes no model but keeps its KV as faithfully as one: every position of
// every block remembers the history of tokens that it stands for, so that a wrong block, a stale
// one, or one that is shared too early is found where it is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/engine/model_runner.h"

namespace caravan {

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15 + b + 0x632be59bd9b4e019;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class FakeModelRunner : public ModelRunner {
 public:
  explicit FakeModelRunner(const RunnerLimits& limits) : limits_(limits) { Clear(); }

  const RunnerLimits& limits() const override { return limits_; }

  absl::Status Submit(const StepPlan& plan) override {
    if (!failure_.ok() || lost_) return Lose();
    Check(static_cast<int32_t>(results_.size()) < limits_.max_steps_in_flight, "steps in flight");
    Check(plan.step == ++step_, "step numbers");
    max_in_flight_ = std::max(max_in_flight_, static_cast<int32_t>(results_.size()) + 1);
    Run(plan);
    plans_.push_back(plan);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> Collect() override {
    if (!failure_.ok() || lost_) return Lose();
    if (results_.empty()) return absl::InternalError("Collect without a step in flight");
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }

  absl::Status Recover(absl::Duration timeout) override {
    ++recover_calls_;
    if (!lost_) return absl::OkStatus();
    if (!recover_error_.ok()) return recover_error_;
    if (recover_after_calls_-- > 0) return absl::DeadlineExceededError("a rank is missing");
    lost_ = false;
    Clear();
    return absl::OkStatus();
  }

  absl::Status status() const override {
    return lost_ ? absl::UnavailableError("a rank is missing") : absl::OkStatus();
  }

  // A rank is lost while nothing runs.
  void LoseIdle() {
    lost_ = true;
    results_.clear();
  }
  // The next call fails with `status`; UNAVAILABLE is recovered from at the (n + 1)th Recover.
  void Fail(absl::Status status, int32_t recover_after_calls = 0) {
    failure_ = std::move(status);
    recover_after_calls_ = recover_after_calls;
  }
  void FailRecovery(absl::Status status) { recover_error_ = std::move(status); }

  // What the model answers to `tokens`, whatever the batch: the token of position tokens.size().
  int32_t Draw(const std::vector<int32_t>& tokens, int32_t prompt_tokens,
               const SamplingParams& sampling, uint32_t sample_index) const {
    uint64_t history = Root(sampling, prompt_tokens);
    for (int32_t token : tokens) history = Mix(history, token);
    return DrawFrom(history, tokens.size(), prompt_tokens, sampling, sample_index);
  }

  // The likeliest tokens of position tokens.size(), at most `count`. Their "log probabilities" are
  // coarse, so that ties are many; banned stop tokens are not among them.
  std::vector<std::pair<int32_t, float>> Candidates(const std::vector<int32_t>& tokens,
                                                    int32_t prompt_tokens,
                                                    const SamplingParams& sampling,
                                                    int32_t count) const {
    uint64_t history = Root(sampling, prompt_tokens);
    for (int32_t token : tokens) history = Mix(history, token);
    return CandidatesFrom(history, tokens.size(), prompt_tokens, sampling, count);
  }

  // From now on a sequence with this token in front of what is drawn gets no numbers.
  void DamageAfter(int32_t token) { damaged_after_ = token; }

  const std::vector<std::string>& errors() const { return errors_; }
  const std::vector<StepPlan>& plans() const { return plans_; }  // those of all epochs
  void ForgetPlans() { plans_.clear(); }
  int32_t max_in_flight() const { return max_in_flight_; }
  int32_t steps_in_flight() const { return static_cast<int32_t>(results_.size()); }
  int32_t recover_calls() const { return recover_calls_; }
  void set_run_seconds(double per_step, double per_token) {
    seconds_per_step_ = per_step;
    seconds_per_token_ = per_token;
  }

 private:
  struct Cell {
    uint64_t history = 0;  // of all tokens up to this position; 0 = never written
    uint64_t step = 0;     // that wrote it
    int32_t slot = -1;
  };
  struct Slot {
    std::vector<int32_t> tokens;
    std::vector<uint64_t> histories;  // of tokens[0..i]
    std::vector<int32_t> table;
    int32_t prompt_tokens = 0;
    int32_t next = -1;  // position that must come next; -1 before the first work
    uint32_t sample_index = 0;
    SamplingParams sampling;
  };

  template <typename... Parts>
  void Check(bool condition, const Parts&... parts) {
    if (!condition && errors_.size() < 20) {
      errors_.push_back(absl::StrCat("step ", step_, ": ", parts...));
    }
  }

  void Clear() {
    blocks_.assign(limits_.num_blocks, std::vector<Cell>(limits_.block_tokens));
    slots_.clear();
    results_.clear();
    step_ = 0;
  }

  absl::Status Lose() {
    absl::Status status = lost_ ? absl::UnavailableError("a rank is missing") : failure_;
    failure_ = absl::OkStatus();
    lost_ = true;
    results_.clear();
    return status;
  }

  // The top byte of the seed stands for what cache_salt stands for (an adapter); prompts that are
  // too long to share have KV of their own.
  uint64_t Root(const SamplingParams& sampling, int32_t prompt_tokens) const {
    const bool shareable = prompt_tokens <= limits_.max_shareable_prompt_tokens;
    return Mix(sampling.seed >> 56, shareable ? 0 : prompt_tokens);
  }

  int32_t DrawFrom(uint64_t history, size_t position, int32_t prompt_tokens,
                   const SamplingParams& sampling, uint32_t sample_index) const {
    uint64_t draw = Mix(Mix(history, position), Mix(sampling.seed, sample_index));
    draw = Mix(draw, prompt_tokens);
    int32_t token = static_cast<int32_t>(draw % limits_.vocab_size);
    const auto& stops = sampling.stop_token_ids;
    const bool banned = static_cast<int32_t>(position) - prompt_tokens < sampling.min_tokens;
    while (banned && std::find(stops.begin(), stops.end(), token) != stops.end()) {
      token = (token + 1) % limits_.vocab_size;
    }
    return token;
  }

  std::vector<std::pair<int32_t, float>> CandidatesFrom(uint64_t history, size_t position,
                                                        int32_t prompt_tokens,
                                                        const SamplingParams& sampling,
                                                        int32_t count) const {
    std::vector<std::pair<int32_t, float>> all;
    const auto& stops = sampling.stop_token_ids;
    const bool banned = static_cast<int32_t>(position) - prompt_tokens < sampling.min_tokens;
    for (int32_t token = 0; token < limits_.vocab_size; ++token) {
      if (banned && std::find(stops.begin(), stops.end(), token) != stops.end()) continue;
      const auto tenths = static_cast<float>(Mix(history, 1000 + token) % 60);
      all.emplace_back(token, -(1 + tenths) / 8);
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    all.resize(std::min(all.size(), static_cast<size_t>(std::max(0, count))));
    return all;
  }

  void Run(const StepPlan& plan) {
    Check(!plan.work.empty(), "empty step");
    Check(plan.num_tokens() <= limits_.max_batch_tokens, "batch of ", plan.num_tokens());
    for (int32_t slot : plan.released_slots) Check(slots_.erase(slot) == 1, "released ", slot);
    for (const SlotSetup& setup : plan.setups) SetUp(setup);
    for (const SlotWork& work : plan.work) ChangeTable(work);
    Copy(plan.copies);
    StepResult result;
    result.step = plan.step;
    result.run_seconds = seconds_per_step_ + seconds_per_token_ * plan.num_tokens();
    std::set<int32_t> seen;
    for (const SlotWork& work : plan.work) {
      Check(seen.insert(work.slot).second, "slot ", work.slot, " works twice");
      RunSlot(work, result);
    }
    results_.push_back(std::move(result));
  }

  void SetUp(const SlotSetup& setup) {
    Check(setup.slot >= 0 && setup.slot < limits_.max_slots, "slot ", setup.slot);
    Check(!slots_.contains(setup.slot), "slot ", setup.slot, " is taken");
    Slot slot;
    slot.tokens = setup.tokens;
    slot.prompt_tokens = setup.prompt_tokens;
    slot.sampling = setup.sampling;
    slot.sample_index = setup.sample_index;
    uint64_t history = Root(setup.sampling, setup.prompt_tokens);
    for (int32_t token : slot.tokens) slot.histories.push_back(history = Mix(history, token));
    slots_[setup.slot] = std::move(slot);
  }

  void ChangeTable(const SlotWork& work) {
    std::vector<int32_t>& table = slots_[work.slot].table;
    for (const NewBlocks& added : work.new_blocks) {
      table.insert(table.end(), added.blocks.begin(), added.blocks.end());
    }
    for (const ReplacedBlock& replaced : work.replaced_blocks) {
      Check(replaced.index < static_cast<int32_t>(table.size()), "replaced ", replaced.index);
      table[replaced.index] = replaced.block;
    }
  }

  // All at once, as a kernel may.
  void Copy(const std::vector<KvBlockCopy>& copies) {
    std::set<int32_t> targets;
    for (const KvBlockCopy& copy : copies) {
      Check(targets.insert(copy.to).second, "block ", copy.to, " is copied to twice");
      Check(Holders(copy.to) == 1, "block ", copy.to, " is copied to and shared");
    }
    for (const KvBlockCopy& copy : copies) {
      Check(!targets.contains(copy.from), "block ", copy.from, " is copied to and from");
      blocks_[copy.to] = blocks_[copy.from];
    }
  }

  int32_t Holders(int32_t block) const {
    int32_t count = 0;
    for (const auto& [number, slot] : slots_) {
      count += static_cast<int32_t>(std::count(slot.table.begin(), slot.table.end(), block));
    }
    return count;
  }

  void RunSlot(const SlotWork& work, StepResult& result) {
    Slot& slot = slots_[work.slot];
    const int32_t end = work.start_position + work.num_tokens;
    Check(work.num_tokens > 0, "slot ", work.slot, " without tokens");
    Check(slot.next == -1 || slot.next == work.start_position, "slot ", work.slot, " skips to ",
          work.start_position, " from ", slot.next);
    Replace(work, slot);
    Check(end <= static_cast<int32_t>(slot.tokens.size()), "slot ", work.slot, " has ",
          slot.tokens.size(), " tokens, works to ", end);
    Check(end <= static_cast<int32_t>(slot.table.size()) * limits_.block_tokens, "slot ", work.slot,
          " has too few blocks");
    Check(end < limits_.max_context_tokens, "slot ", work.slot, " exceeds the context");
    if (!errors_.empty()) {  // the rest would be noise, or worse
      if (work.sample) result.slots.push_back({work.slot, {EmittedToken()}});
      return;
    }
    for (int32_t i = work.start_position; i < end; i += limits_.block_tokens) {
      Check(Holders(slot.table[i / limits_.block_tokens]) == 1, "slot ", work.slot,
            " writes a shared block");
    }
    Check(Holders(slot.table[(end - 1) / limits_.block_tokens]) == 1, "slot ", work.slot,
          " writes a shared block");
    for (int32_t i = work.start_position; i < end; ++i) {
      CellAt(slot, i) = {slot.histories[i], step_, work.slot};
    }
    for (int32_t i = 0; i < end; ++i) {
      const Cell& cell = CellAt(slot, i);
      Check(cell.history == slot.histories[i], "slot ", work.slot, " reads KV of another history");
      Check(cell.step != step_ || cell.slot == work.slot, "slot ", work.slot, " reads what slot ",
            cell.slot, " writes in the same step");
    }
    slot.next = end;
    if (work.sample) Sample(work.slot, slot, result);
  }

  void Replace(const SlotWork& work, Slot& slot) {
    if (work.token_ids.empty()) return;
    const auto start = static_cast<size_t>(work.start_position);
    Check(start <= slot.tokens.size() && work.start_position >= slot.prompt_tokens, "slot ",
          work.slot, " is told tokens from ", start, " of ", slot.tokens.size());
    Check(static_cast<int32_t>(work.token_ids.size()) <= work.num_tokens, "slot ", work.slot,
          " is told ", work.token_ids.size(), " tokens");
    if (!errors_.empty()) return;
    slot.tokens.resize(start);
    slot.histories.resize(start);
    for (int32_t token : work.token_ids) {
      slot.tokens.push_back(token);
      slot.histories.push_back(Mix(slot.histories.back(), token));
    }
  }

  void Sample(int32_t number, Slot& slot, StepResult& result) {
    const uint64_t history = slot.histories.back();
    const int32_t token =
        DrawFrom(history, slot.tokens.size(), slot.prompt_tokens, slot.sampling, slot.sample_index);
    Check(slot.next == static_cast<int32_t>(slot.tokens.size()), "slot ", number,
          " draws before its end");
    std::vector<std::pair<int32_t, float>> top = CandidatesFrom(
        history, slot.tokens.size(), slot.prompt_tokens, slot.sampling, slot.sampling.num_logprobs);
    slot.tokens.push_back(token);
    slot.histories.push_back(Mix(history, token));
    const bool finite = slot.tokens[slot.tokens.size() - 2] != damaged_after_;
    if (!finite) top.clear();
    result.slots.push_back({number, {{finite ? token : 0, 0, std::move(top)}}, finite});
  }

  Cell& CellAt(const Slot& slot, int32_t position) {
    return blocks_[slot.table[position / limits_.block_tokens]][position % limits_.block_tokens];
  }

  const RunnerLimits limits_;
  std::vector<std::vector<Cell>> blocks_;
  std::map<int32_t, Slot> slots_;
  std::deque<StepResult> results_;
  std::vector<StepPlan> plans_;
  std::vector<std::string> errors_;
  absl::Status failure_;
  absl::Status recover_error_;
  bool lost_ = false;
  int32_t damaged_after_ = -1;
  int32_t recover_after_calls_ = 0;
  int32_t recover_calls_ = 0;
  int32_t max_in_flight_ = 0;
  uint64_t step_ = 0;
  double seconds_per_step_ = 0;
  double seconds_per_token_ = 0;
};

}  // namespace caravan
