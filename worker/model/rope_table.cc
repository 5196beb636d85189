#include "worker/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "common/status.h"

namespace caravan {
namespace {

// base^(2i / head_size) in float32, rounded once.
float Power(float base, float exponent) {
  return static_cast<float>(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
}

std::vector<float> PositionFrequencies(float base, int32_t head_size) {
  std::vector<float> powers(static_cast<size_t>(head_size / 2));
  for (size_t i = 0; i < powers.size(); ++i) {
    powers[i] = Power(base, static_cast<float>(2 * i) / static_cast<float>(head_size));
  }
  return powers;
}

void Invert(std::vector<float>* values) {
  for (float& value : *values) value = 1.0F / value;
}

float DynamicBase(const RopeConfig& rope, int32_t head_size, int32_t max_positions,
                  int64_t sequence_tokens) {
  const auto length = static_cast<float>(std::max<int64_t>(sequence_tokens, max_positions));
  const auto factor = static_cast<float>(rope.factor);
  const float stretch =
      factor * length / static_cast<float>(max_positions) - static_cast<float>(rope.factor - 1);
  const double exponent = static_cast<double>(head_size) / (head_size - 2);
  return static_cast<float>(rope.theta) * Power(stretch, static_cast<float>(exponent));
}

void ScaleLlama3(const RopeConfig& rope, std::vector<float>* inverse) {
  const auto context = static_cast<float>(rope.original_max_positions);
  const auto factor = static_cast<float>(rope.factor);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto high = static_cast<float>(rope.high_freq_factor);
  for (float& frequency : *inverse) {
    const float wavelength = 1.0F / frequency * static_cast<float>(2 * std::numbers::pi);
    if (wavelength < context / high) continue;
    if (wavelength > context / low) {
      frequency /= factor;
      continue;
    }
    const float smooth = (1.0F / wavelength * context - low) / (high - low);
    frequency = (1 - smooth) * frequency / factor + smooth * frequency;
  }
}

// The dimension whose wave turns `rotations` times over the original context.
double YarnDimension(const RopeConfig& rope, int32_t head_size, double rotations) {
  const auto context = static_cast<double>(rope.original_max_positions);
  return head_size * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

std::vector<float> YarnInverse(const RopeConfig& rope, int32_t head_size) {
  double low = YarnDimension(rope, head_size, rope.beta_fast);
  double high = YarnDimension(rope, head_size, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_size - 1));
  if (low == high) high += 0.001;
  std::vector<float> inverse = PositionFrequencies(static_cast<float>(rope.theta), head_size);
  for (size_t i = 0; i < inverse.size(); ++i) {
    const float extrapolated = 1.0F / inverse[i];
    const float interpolated = 1.0F / (static_cast<float>(rope.factor) * inverse[i]);
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F,
        1.0F);
    const float keep = 1 - ramp;
    inverse[i] = interpolated * (1 - keep) + extrapolated * keep;
  }
  return inverse;
}

double YarnScale(double factor, double multiplier) {
  return factor <= 1 ? 1.0 : 0.1 * multiplier * std::log(factor) + 1.0;
}

}  // namespace

std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, int32_t head_size,
                                          int32_t max_positions, int64_t sequence_tokens) {
  if (rope.type == RopeType::kYarn) return YarnInverse(rope, head_size);
  const float base = rope.type == RopeType::kDynamic && sequence_tokens > max_positions
                         ? DynamicBase(rope, head_size, max_positions, sequence_tokens)
                         : static_cast<float>(rope.theta);
  std::vector<float> inverse = PositionFrequencies(base, head_size);
  Invert(&inverse);
  if (rope.type == RopeType::kLinear) {
    for (float& frequency : inverse) frequency /= static_cast<float>(rope.factor);
  } else if (rope.type == RopeType::kLlama3) {
    ScaleLlama3(rope, &inverse);
  }
  return inverse;
}

float RopeAttentionFactor(const RopeConfig& rope) {
  if (rope.type != RopeType::kYarn) return 1;
  if (rope.attention_factor) return static_cast<float>(*rope.attention_factor);
  const double mscale = rope.mscale.value_or(0);
  const double mscale_all_dim = rope.mscale_all_dim.value_or(0);
  if (mscale == 0 || mscale_all_dim == 0) return static_cast<float>(YarnScale(rope.factor, 1));
  return static_cast<float>(YarnScale(rope.factor, mscale) /
                            YarnScale(rope.factor, mscale_all_dim));
}

RopeTable::RopeTable(const ModelConfig& config, int32_t max_context_tokens, int32_t scratch_rows)
    : rope_(config.rope),
      head_size_(config.head_size),
      max_positions_(config.max_positions),
      static_rows_(max_context_tokens) {
  const bool dynamic = rope_.type == RopeType::kDynamic;
  rows_.resize(static_cast<size_t>(Bytes(config, max_context_tokens, scratch_rows)) /
               sizeof(float));
  std::vector<float> inverse =
      RopeInverseFrequencies(rope_, head_size_, max_positions_, max_positions_);
  for (int64_t p = 0; p < static_rows_; ++p) {
    // Beyond the original maximum the static rows are those of generated tokens.
    if (dynamic && p + 1 > max_positions_) {
      inverse = RopeInverseFrequencies(rope_, head_size_, max_positions_, p + 1);
    }
    FillRow(p, p, inverse);
  }
}

int64_t RopeTable::Bytes(const ModelConfig& config, int32_t max_context_tokens,
                         int32_t scratch_rows) {
  const int64_t scratch = config.rope.type == RopeType::kDynamic ? scratch_rows : 0;
  return (max_context_tokens + scratch) * config.head_size * int64_t{sizeof(float)};
}

absl::Status RopeTable::CopyTo(DeviceStream stream) {
  const auto bytes = static_cast<int64_t>(rows_.size() * sizeof(float));
  ASSIGN_OR_RETURN(copy_, ModelMemory::Allocate(stream, bytes, "rope tables"));
  CopyFromHost(copy_.data(), rows_.data(), bytes, stream);
  return absl::OkStatus();
}

ConstMatrixView RopeTable::view() const {
  const void* rows = copy_.data() != nullptr ? copy_.data() : rows_.data();
  return DenseMatrix(rows, DType::kFloat32, static_cast<int64_t>(rows_.size()) / head_size_,
                     head_size_);
}

int32_t RopeTable::RowFor(int64_t position, int64_t prompt_tokens) {
  CARAVAN_CHECK(position < static_rows_, "position ", position, " of ", static_rows_);
  const bool by_prompt = position < prompt_tokens && NeedsScratch(prompt_tokens);
  if (!by_prompt) return static_cast<int32_t>(position);
  if (scratch_prompt_tokens_ != prompt_tokens) {
    scratch_frequencies_ = RopeInverseFrequencies(rope_, head_size_, max_positions_, prompt_tokens);
    scratch_prompt_tokens_ = prompt_tokens;
  }
  const int64_t row = static_rows_ + used_scratch_++;
  CARAVAN_CHECK((row + 1) * head_size_ <= static_cast<int64_t>(rows_.size()));
  FillRow(row, position, scratch_frequencies_);
  return static_cast<int32_t>(row);
}

std::span<const float> RopeTable::scratch() const {
  return std::span(rows_).subspan(static_cast<size_t>(static_rows_ * head_size_),
                                  static_cast<size_t>(used_scratch_ * head_size_));
}

void* RopeTable::scratch_target() const {
  const ConstMatrixView rows = view();
  return const_cast<void*>(rows.row(static_rows_));
}

int64_t RopeTable::most_scratch_bytes() const {
  return (static_cast<int64_t>(rows_.size()) - static_rows_ * head_size_) * int64_t{sizeof(float)};
}

int32_t RopeTable::max_shareable_prompt_tokens() const {
  return rope_.type == RopeType::kDynamic ? max_positions_ : std::numeric_limits<int32_t>::max();
}

void RopeTable::FillRow(int64_t row, int64_t position,
                        const std::vector<float>& inverse_frequencies) {
  const float scale = RopeAttentionFactor(rope_);
  const size_t half = inverse_frequencies.size();
  float* out = rows_.data() + row * head_size_;
  for (size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies[i];
    out[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * scale;
    out[half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * scale;
  }
}

}  // namespace caravan
