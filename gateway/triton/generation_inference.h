// A request to ensemble or fastertransformer: each of its rows is a generation of its own, and a
// response shows all of them after the same number of steps.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/generation/generation.h"
#include "gateway/triton/inference_base.h"
#include "gateway/triton/protocol/batch_output.h"
#include "gateway/triton/protocol/beam_partials.h"

namespace caravan {

class GenerationInference : public InferenceBase {
 public:
  GenerationInference(const InferContext* context, InferCall call, GenerationParameters parameters,
                      InferSink* sink);
  ~GenerationInference() override;

  // Once, after it was made. What is wrong comes as the end of the request.
  void Start();

  bool HasNext() const override;
  absl::StatusOr<InferResponse> Next() override;

 private:
  // One row's generation and what it tells.
  class RowSink : public OutputSink {
   public:
    RowSink(GenerationInference* owner, size_t row) : owner_(owner), row_(row) {}
    void OnStarted(const StartedInfo& started) override { owner_->OnRowStarted(); }
    absl::Status OnChunk(OutputChunk chunk) override { return owner_->OnChunk(row_, chunk); }
    void OnSampleEnd(SampleEnd end) override { owner_->OnSampleEnd(row_, end); }
    void OnBeams(BeamLook&& look) override { owner_->OnBeams(row_, std::move(look)); }
    void OnEnd(const absl::Status& status, InflightPlace place) override {
      owner_->OnRowEnd(row_, status, std::move(place));
    }

    std::shared_ptr<Generation> generation;

   private:
    GenerationInference* const owner_;
    const size_t row_;
  };

  absl::Status TryStart();
  bool is_text() const { return request().model().kind == TritonModelKind::kEnsemble; }
  absl::Status StartFromTexts();
  absl::StatusOr<std::vector<std::vector<int32_t>>> ReadTokenIds() const;
  void OnEncoded(absl::StatusOr<v1::EncodeResponse> response);
  absl::Status Begin(std::vector<std::vector<int32_t>> prompts);
  absl::Status CheckOutputSize() const;
  absl::StatusOr<ValidatedRequest> MakeRow(size_t row, const std::vector<int32_t>& prompt) const;
  // Partial responses of a search are whole: its deltas would contradict each other.
  bool shows_beams() const {
    return parameters_.partial && !parameters_.delta && parameters_.beam_width > 1;
  }
  absl::StatusOr<std::vector<int32_t>> PromptOf(size_t row, std::vector<int32_t> prompt) const;
  // What an empty prompt begins with: the request's, or the tokenizer's; nullopt: there is none.
  std::optional<uint32_t> StartIdOf(const RowParameters& row) const;
  uint32_t FillIdOf(const RowParameters& row) const;

  void OnRowStarted();
  absl::Status OnChunk(size_t row, const OutputChunk& chunk);
  void OnBeams(size_t row, BeamLook look);
  void OnSampleEnd(size_t row, const SampleEnd& end);
  void OnRowEnd(size_t row, const absl::Status& status, InflightPlace place);
  void Stop() override;
  void CountFailedPart(const absl::Status& status) override;
  void Update() override;
  void PlanPartials();
  void PlanBeams();
  absl::StatusOr<InferResponse> BuildBeams(BeamsAtStep beams);
  absl::StatusOr<InferResponse> Build(BatchOutput* output, int32_t steps);
  static InferOutput MakeOutput(BatchOutput* output, const std::string& name, int32_t steps,
                                int32_t since, bool first);
  float RenormalizedLogProb(size_t row, const OutputToken& token) const;
  void CountEncoding(std::chrono::nanoseconds duration) const;
  void CountExecutions(const InferTimes& times);
  OutputSequence& SequenceOf(size_t row, int sample) {
    return output_.sequence(row * parameters_.beam_width + static_cast<size_t>(sample));
  }

  GenerationParameters parameters_;
  BatchOutput output_;
  std::vector<std::string> outputs_;  // what a response has
  std::shared_ptr<TokenizerClient::Call> tokenizer_call_;
  std::vector<std::unique_ptr<RowSink>> rows_;
  bool encoding_ = false;
  size_t num_rows_ended_ = 0;
  InflightPlace place_;           // of the row that ended last, until all is taken
  int32_t last_planned_ = 0;      // steps of the newest partial response that was planned
  std::deque<int32_t> partials_;  // steps of those not taken yet
  BeamPartials beam_partials_;
  std::vector<std::string> prompt_texts_;  // of rows: what leads the texts of beams
  std::deque<BeamsAtStep> beams_;          // not taken yet
  size_t num_beam_bytes_ = 0;              // of them
  BatchOutput beam_output_;                // the one that is made into a response
  bool final_ready_ = false;               // the final response is planned, after the partials
  bool empty_final_ready_ = false;
  bool any_taken_ = false;
  int32_t last_taken_ = 0;  // steps of the response before
  Clock::time_point encoded_;
  Clock::time_point started_;
  Clock::time_point last_token_;
};

}  // namespace caravan
