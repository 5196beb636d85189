#include "tests/kernels/sampling_fixture.h"

#include <algorithm>

namespace caravan {
namespace {

// The rows' spans behind one another; begins[r] is where row r's is.
template <typename T>
struct Joined {
  std::vector<T> all;
  std::vector<size_t> begins;

  void Add(std::span<const T> part) {
    begins.push_back(all.size());
    all.insert(all.end(), part.begin(), part.end());
  }
};

}  // namespace

std::vector<SamplingOutput> SampleRows(const Target& target, Tensor& logits, int32_t vocab,
                                       const std::vector<SamplingRow>& rows) {
  Joined<TokenBias> biases;
  Joined<int32_t> histories;
  for (const SamplingRow& row : rows) {
    biases.Add(row.biases);
    histories.Add(row.history);
  }
  std::vector<SamplingOutput> outputs(rows.size());
  TargetRun run(target);
  const std::span<const TokenBias> all_biases = run.In(biases.all);
  const std::span<const int32_t> all_histories = run.In(histories.all);
  std::vector<SamplingRow> there = rows;
  for (size_t r = 0; r < rows.size(); ++r) {
    there[r].biases = all_biases.subspan(biases.begins[r], rows[r].biases.size());
    there[r].history = all_histories.subspan(histories.begins[r], rows[r].history.size());
  }
  Sample(run.Out(logits), vocab, run.In(there), run.Out(outputs), run.stream());
  run.Finish();
  return outputs;
}

std::vector<SamplingOutput> SampleRows(const Target& target, const std::vector<float>& logits,
                                       const std::vector<SamplingRow>& rows) {
  const auto vocab = static_cast<int64_t>(logits.size());
  Tensor tensor(DType::kFloat32, static_cast<int64_t>(rows.size()), vocab);
  for (int64_t r = 0; r < tensor.rows(); ++r) {
    std::copy(logits.begin(), logits.end(), static_cast<float*>(tensor.view().row(r)));
  }
  return SampleRows(target, tensor, static_cast<int32_t>(vocab), rows);
}

SamplingOutput SampleOne(const Target& target, const std::vector<float>& logits,
                         const SamplingRow& row) {
  return SampleRows(target, logits, {row})[0];
}

}  // namespace caravan
