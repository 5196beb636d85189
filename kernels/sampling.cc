#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/primitives.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/token_filter.h"
#include "kernels/dispatch.h"
#include "kernels/philox.h"

namespace caravan {
namespace cuda {  // sampling.cu
void Sample(MatrixView logits, int32_t vocab_size, std::span<const SamplingRow> rows,
            std::span<SamplingOutput> outputs, CudaStream& stream);
}  // namespace cuda
namespace cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreatest = std::numeric_limits<float>::max();

void ApplyBiases(const SamplingRow& row, std::span<float> logits) {
  for (const TokenBias& bias : row.biases) {
    const size_t id = static_cast<size_t>(bias.token_id);
    CARAVAN_CHECK(bias.token_id >= 0 && id < logits.size(), bias.token_id, " of ", logits.size());
    logits[id] += bias.bias;
  }
}

void ApplyPenalties(const SamplingRow& row, std::span<float> logits) {
  if (row.history.empty()) return;
  constexpr uint32_t kSeen = 0x80000000u;  // the other bits count what was generated
  const size_t bytes = logits.size() * sizeof(uint32_t);
  auto* counts = static_cast<uint32_t*>(Scratch(ScratchUse::kOutput, static_cast<int64_t>(bytes)));
  std::memset(counts, 0, bytes);
  const auto exists = [&](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < logits.size();
  };
  for (size_t i = 0; i < row.history.size(); ++i) {
    if (!exists(row.history[i])) continue;
    uint32_t& count = counts[row.history[i]];
    count = (count | kSeen) + (static_cast<int64_t>(i) >= row.history_prompt ? 1 : 0);
  }
  for (const int32_t id : row.history) {
    if (!exists(id) || counts[id] == 0) continue;
    const uint32_t count = counts[id] & ~kSeen;
    counts[id] = 0;
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    logit -= row.frequency_penalty * static_cast<float>(count);
    if (count > 0) logit -= row.presence_penalty;
  }
}

// The greatest logit; afterwards none is NaN or +infinity.
float Sanitize(std::span<float> logits) {
  return ActivePrimitives().sanitize_max(logits.data(), static_cast<int64_t>(logits.size()));
}

// Of what Sanitize has left.
bool IsFinite(float logit) { return logit != -kInfinity && logit != kGreatest; }

// log Σ e^logit.
double LogSumExp(std::span<const float> logits, float max) {
  if (max == -kInfinity) return 0;  // no token is possible, and the log of each is -infinity
  const int64_t n = static_cast<int64_t>(logits.size());
  float* weights = FloatScratch(ScratchUse::kRow, n);
  return double{max} + std::log(ActivePrimitives().exp_sum(logits.data(), max, weights, n));
}

// Fills the greatest `row.num_logprobs` log probabilities.
void ListTop(const SamplingRow& row, std::span<const float> logits, double log_sum,
             SamplingOutput* output) {
  const int wanted = row.num_logprobs;
  TokenLogprob* top = output->top;  // logits while the list is being made
  int n = 0;
  for (size_t id = 0; wanted > 0 && id < logits.size(); ++id) {
    const float logit = logits[id];
    if (logit == -kInfinity || (n == wanted && logit <= top[n - 1].logprob)) continue;
    int place = n < wanted ? n++ : n - 1;
    for (; place > 0 && top[place - 1].logprob < logit; --place) top[place] = top[place - 1];
    top[place] = {static_cast<int32_t>(id), logit};
  }
  for (int i = 0; i < n; ++i) {
    top[i].logprob = static_cast<float>(double{top[i].logprob} - log_sum);
  }
  output->num_top = n;
}

// The best draw so far, by Gumbel score, ties by lower id.
class Draw {
 public:
  explicit Draw(const SamplingRow& row, float max) : row_(row), max_(max) {}

  PhiloxWords Words(int32_t id) const {
    return Philox4x32(row_.seed, {{static_cast<uint32_t>(row_.position), row_.sample_index,
                                   static_cast<uint32_t>(PhiloxPurpose::kSample),
                                   static_cast<uint32_t>(id) / 4}});
  }

  // u = 1 - v. -log u ≥ v, so that most tokens lose without a logarithm.
  void Offer(int32_t id, float logit, float weight, uint32_t word) {
    const double v = (static_cast<double>(word) + 0.5) * 0x1p-32;
    if (v > static_cast<double>(weight) * bound_) return;
    const double score = double{logit} - double{max_} - std::log(-std::log1p(-v));
    if (score < score_ || (score == score_ && id > id_)) return;
    score_ = score;
    id_ = id;
    bound_ = std::exp(-score) * 1.001;  // the weight has the error of a float exponential
  }

  int32_t id() const { return id_; }

 private:
  const SamplingRow& row_;
  float max_;
  int32_t id_ = 0;
  double score_ = -std::numeric_limits<double>::infinity();
  double bound_ = std::numeric_limits<double>::infinity();
};

int32_t DrawFromAll(const SamplingRow& row, std::span<const float> logits, float max) {
  const int32_t vocab = static_cast<int32_t>(logits.size());
  float* weights = FloatScratch(ScratchUse::kRow, vocab);
  ActivePrimitives().exp_sum(logits.data(), max, weights, vocab);
  Draw draw(row, max);
  for (int32_t first = 0; first < vocab; first += 4) {
    const PhiloxWords words = draw.Words(first);
    const int32_t end = std::min(vocab, first + 4);
    for (int32_t id = first; id < end; ++id) {
      if (weights[id] == 0 || weights[id] < row.min_p) continue;
      draw.Offer(id, logits[static_cast<size_t>(id)], weights[id], words.word[id - first]);
    }
  }
  return draw.id();
}

int32_t DrawToken(const SamplingRow& row, std::span<const float> logits, float max) {
  const bool selects =
      (row.top_k > 0 && row.top_k < static_cast<int64_t>(logits.size())) || row.top_p < 1;
  if (!selects) return DrawFromAll(row, logits, max);
  Draw draw(row, max);
  // g++ 13 takes a loop over the call itself for one over a temporary.
  const std::span<const KeptToken> kept =
      FilterTokens(logits, max, {row.top_k, row.top_p, row.min_p});
  for (const KeptToken& token : kept) {
    draw.Offer(token.id, token.logit, token.weight, draw.Words(token.id).word[token.id % 4]);
  }
  return draw.id();
}

// False where the row is greedy: it asks for it, or no token is possible.
bool ApplyTemperature(const SamplingRow& row, std::span<float> logits, float* max) {
  if (row.temperature < kLeastTemperature || *max == -kInfinity) return false;
  if (row.temperature == 1) return true;
  for (float& logit : logits) {
    logit = std::min(logit / row.temperature, kGreatest);
  }
  *max = std::min(*max / row.temperature, kGreatest);
  return true;
}

void SampleRow(const SamplingRow& row, std::span<float> logits, SamplingOutput* output) {
  *output = SamplingOutput();
  if (row.skipped) {
    output->token_id = -1;
    return;
  }
  const bool wants_raw = row.num_logprobs >= 0 && !row.processed_logprobs;
  std::span<const float> reported = logits;
  std::span<const float> own;  // the model's; kept where they are reported, or one overflowed
  double log_sum = 0;
  float max = Sanitize(logits);
  const float first = logits[0];
  if (wants_raw || max == kGreatest) {
    float* copy = FloatScratch(ScratchUse::kOther, static_cast<int64_t>(logits.size()));
    std::memcpy(copy, logits.data(), logits.size_bytes());
    own = {copy, logits.size()};
  }
  if (wants_raw) {
    reported = own;
    log_sum = LogSumExp(reported, max);
    ListTop(row, reported, log_sum, output);
  }
  if (!row.biases.empty() || !row.history.empty()) {
    ApplyBiases(row, logits);
    ApplyPenalties(row, logits);
    max = Sanitize(logits);
  }
  const bool draws = ApplyTemperature(row, logits, &max);
  if (row.num_logprobs >= 0 && row.processed_logprobs) {
    log_sum = LogSumExp(logits, max);
    ListTop(row, logits, log_sum, output);
  }
  if (draws) {
    output->token_id = DrawToken(row, logits, max);
  } else {
    output->token_id =
        static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
  }
  const auto id = static_cast<size_t>(output->token_id);
  // Where none is kept, an id other than the 0 that stands for no token at all had a possible one.
  output->finite = own.empty() ? id != 0 || first != -kInfinity : IsFinite(own[id]);
  if (row.num_logprobs >= 0) {
    output->logprob = static_cast<float>(double{reported[id]} - log_sum);
  }
}

void Sample(MatrixView logits, int32_t vocab_size, std::span<const SamplingRow> rows,
            std::span<SamplingOutput> outputs) {
  const auto sample = [&](int64_t r) {
    SampleRow(rows[static_cast<size_t>(r)],
              {static_cast<float*>(logits.row(r)), static_cast<size_t>(vocab_size)},
              &outputs[static_cast<size_t>(r)]);
  };
  ParallelForEach(logits.rows, logits.rows * int64_t{vocab_size} * 8, sample);
}

}  // namespace
}  // namespace cpu

void Sample(MatrixView logits, int32_t vocab_size, std::span<const SamplingRow> rows,
            std::span<SamplingOutput> outputs, DeviceStream stream) {
  CARAVAN_CHECK(logits.dtype == DType::kFloat32, NameOf(logits.dtype));
  CARAVAN_CHECK(vocab_size > 0 && vocab_size <= logits.cols, vocab_size, " of ", logits.cols);
  CARAVAN_CHECK_EQ(static_cast<int64_t>(rows.size()), logits.rows);
  CARAVAN_CHECK_EQ(static_cast<int64_t>(outputs.size()), logits.rows);
  if (stream.device() == Device::kCpu) {
    for (const SamplingRow& row : rows) {
      CARAVAN_CHECK(row.num_logprobs <= kMaxTopLogprobs, row.num_logprobs, " log probabilities");
    }
  }
  if (logits.rows == 0) return;
  CARAVAN_DISPATCH(Sample, stream, logits, vocab_size, rows, outputs);
}

}  // namespace caravan
