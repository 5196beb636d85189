// What has been generated for a request, and any state of it as output tensors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/triton/protocol/infer_message.h"
#include "gateway/triton/protocol/tensor.h"

namespace caravan {

// One sequence of the output: beam k of row b is number b · beam_width + k.
struct OutputSequence {
  std::vector<int32_t> token_ids;     // generated
  std::vector<float> log_probs;       // one a token, where asked for
  std::vector<double> cum_log_probs;  // their running sum, over the whole vocabulary
  std::string_view lead;              // stands before `text`, and is kept by someone else
  std::string text;                 // whole characters; begins with the prompt's where it is shown
  std::vector<uint32_t> text_ends;  // bytes of `text` after each token
  size_t text_sent = 0;             // with delta: bytes in earlier responses
  bool ended = false;
};

struct OutputRow {
  std::vector<int32_t> prompt;
  int32_t max_tokens = 0;
  uint32_t fill_id = 0;  // after the end
};

// How outputs look, the same for all responses of a request.
struct OutputView {
  bool exclude_input = false;
  bool delta = false;
};

// Responses differ only in how many steps they show: a step is a token of every row that has not
// ended, so a row shows at most so many tokens. What is kept is kept once. Not thread-safe.
class BatchOutput {
 public:
  BatchOutput(int64_t beam_width, OutputView view) : beam_width_(beam_width), view_(view) {}

  void AddRow(OutputRow row);
  const std::vector<OutputRow>& rows() const { return rows_; }
  OutputSequence& sequence(size_t i) { return sequences_[i]; }
  size_t num_sequences() const { return sequences_.size(); }

  // The padded length of the prompts: the longest.
  int32_t padded_prompt_tokens() const { return padded_prompt_tokens_; }
  int32_t max_tokens() const { return max_tokens_; }
  // Steps that all sequences have, or have ended before; and the most that one has.
  int32_t complete_steps() const;
  int32_t longest() const;
  bool all_ended() const;

  // Tensors after `steps` steps; `since` is the steps of the response before, 0 for the first.
  InferOutput TokenIds(const std::string& name, int32_t steps, int32_t since, bool first) const;
  // Text for each sequence; with delta what earlier calls have not given. `flat`: one dimension.
  InferOutput Text(const std::string& name, int32_t steps, bool flat);
  InferOutput SequenceLength(const std::string& name, int32_t steps) const;
  InferOutput CumLogProbs(const std::string& name, int32_t steps) const;
  InferOutput OutputLogProbs(const std::string& name, int32_t steps, int32_t since) const;

 private:
  const OutputRow& RowOf(size_t sequence) const {
    return rows_[sequence / static_cast<size_t>(beam_width_)];
  }
  // Tokens that a sequence shows after so many steps.
  static size_t Shown(const OutputSequence& sequence, int32_t steps);
  static size_t TextEnd(const OutputSequence& sequence, int32_t steps);
  InferOutput Make(const std::string& name, DataType datatype) const;

  const int64_t beam_width_;
  const OutputView view_;
  std::vector<OutputRow> rows_;
  std::vector<OutputSequence> sequences_;
  int32_t padded_prompt_tokens_ = 0;
  int32_t max_tokens_ = 0;
};

}  // namespace caravan
