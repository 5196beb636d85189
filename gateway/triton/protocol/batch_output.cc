#include "gateway/triton/protocol/batch_output.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace caravan {

void BatchOutput::AddRow(OutputRow row) {
  padded_prompt_tokens_ = std::max(padded_prompt_tokens_, static_cast<int32_t>(row.prompt.size()));
  max_tokens_ = std::max(max_tokens_, row.max_tokens);
  rows_.push_back(std::move(row));
  sequences_.resize(rows_.size() * static_cast<size_t>(beam_width_));
}

int32_t BatchOutput::complete_steps() const {
  int32_t steps = std::numeric_limits<int32_t>::max();
  for (const OutputSequence& sequence : sequences_) {
    if (!sequence.ended) {
      steps = std::min(steps, static_cast<int32_t>(sequence.token_ids.size()));
    }
  }
  return steps == std::numeric_limits<int32_t>::max() ? longest() : steps;
}

int32_t BatchOutput::longest() const {
  int32_t steps = 0;
  for (const OutputSequence& sequence : sequences_) {
    steps = std::max(steps, static_cast<int32_t>(sequence.token_ids.size()));
  }
  return steps;
}

bool BatchOutput::all_ended() const {
  return std::all_of(sequences_.begin(), sequences_.end(),
                     [](const OutputSequence& sequence) { return sequence.ended; });
}

size_t BatchOutput::Shown(const OutputSequence& sequence, int32_t steps) {
  return std::min(sequence.token_ids.size(), static_cast<size_t>(steps));
}

// A sequence that shows all its tokens shows all its text: what was held back for a character or a
// stop word comes after the last token.
size_t BatchOutput::TextEnd(const OutputSequence& sequence, int32_t steps) {
  const size_t shown = Shown(sequence, steps);
  if (sequence.ended && shown == sequence.token_ids.size()) return sequence.text.size();
  return shown == 0 ? 0 : sequence.text_ends[shown - 1];
}

InferOutput BatchOutput::Make(const std::string& name, DataType datatype) const {
  InferOutput output;
  output.name = name;
  output.datatype = datatype;
  output.shape = {static_cast<int64_t>(rows_.size()), beam_width_};
  return output;
}

InferOutput BatchOutput::TokenIds(const std::string& name, int32_t steps, int32_t since,
                                  bool first) const {
  InferOutput output = Make(name, DataType::kUint32);
  const bool with_prompt = !view_.exclude_input && (!view_.delta || first);
  const int32_t from = view_.delta ? since : 0;
  int32_t width = view_.delta ? steps - from : max_tokens_;
  if (with_prompt) width += padded_prompt_tokens_;
  output.shape.push_back(width);
  output.data.reserve(sequences_.size() * static_cast<size_t>(width) * sizeof(uint32_t));
  const auto first_token = static_cast<size_t>(from);
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const OutputRow& row = RowOf(i);
    const std::vector<int32_t>& ids = sequences_[i].token_ids;
    const size_t end = output.data.size() + static_cast<size_t>(width) * sizeof(uint32_t);
    if (with_prompt) AppendElements(row.prompt.data(), row.prompt.size(), &output.data);
    const size_t shown = Shown(sequences_[i], steps);
    if (shown > first_token) {
      AppendElements(ids.data() + first_token, shown - first_token, &output.data);
    }
    while (output.data.size() < end) AppendElement(row.fill_id, &output.data);
  }
  return output;
}

InferOutput BatchOutput::Text(const std::string& name, int32_t steps, bool flat) {
  InferOutput output = Make(name, DataType::kBytes);
  if (flat) output.shape = {static_cast<int64_t>(sequences_.size())};
  size_t most = 0;
  for (const OutputSequence& sequence : sequences_) {
    const size_t from = view_.delta ? sequence.text_sent : 0;
    most += sizeof(uint32_t) + sequence.lead.size() + sequence.text.size() - from;
  }
  output.data.reserve(most);
  for (OutputSequence& sequence : sequences_) {
    const size_t from = view_.delta ? sequence.text_sent : 0;
    const size_t end = std::max(from, TextEnd(sequence, steps));
    sequence.text_sent = end;
    AppendElement(static_cast<uint32_t>(sequence.lead.size() + end - from), &output.data);
    output.data.append(sequence.lead).append(sequence.text, from, end - from);
  }
  return output;
}

InferOutput BatchOutput::SequenceLength(const std::string& name, int32_t steps) const {
  InferOutput output = Make(name, DataType::kUint32);
  const size_t before = view_.exclude_input ? 0 : static_cast<size_t>(padded_prompt_tokens_);
  for (const OutputSequence& sequence : sequences_) {
    AppendElement(static_cast<uint32_t>(before + Shown(sequence, steps)), &output.data);
  }
  return output;
}

InferOutput BatchOutput::CumLogProbs(const std::string& name, int32_t steps) const {
  InferOutput output = Make(name, DataType::kFp32);
  for (const OutputSequence& sequence : sequences_) {
    const size_t shown = Shown(sequence, steps);
    const double sum = shown == 0 ? 0 : sequence.cum_log_probs[shown - 1];
    AppendElement(static_cast<float>(sum), &output.data);
  }
  return output;
}

InferOutput BatchOutput::OutputLogProbs(const std::string& name, int32_t steps,
                                        int32_t since) const {
  InferOutput output = Make(name, DataType::kFp32);
  const int32_t from = view_.delta ? since : 0;
  const int32_t width = view_.delta ? steps - from : max_tokens_;
  output.shape.push_back(width);
  for (const OutputSequence& sequence : sequences_) {
    const size_t end = output.data.size() + static_cast<size_t>(width) * sizeof(float);
    const auto first = static_cast<size_t>(from);
    const size_t shown = Shown(sequence, steps);
    if (shown > first) {
      AppendElements(sequence.log_probs.data() + first, shown - first, &output.data);
    }
    while (output.data.size() < end) AppendElement(0.0F, &output.data);
  }
  return output;
}

}  // namespace caravan
