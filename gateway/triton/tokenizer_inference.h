// Requests to preprocessing (texts to token ids) and postprocessing (token ids to texts): one call
// of a tokenizer and one response.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/triton/inference_base.h"
#include "gateway/triton/protocol/word_list.h"

namespace caravan {

class TokenizerInference : public InferenceBase {
 public:
  TokenizerInference(const InferContext* context, InferCall call, InferSink* sink);
  ~TokenizerInference() override;

  // Once, after it was made. What is wrong comes as the end of the request.
  void Start();

  bool HasNext() const override { return status().ok() && has_response_; }
  absl::StatusOr<InferResponse> Next() override;

 private:
  absl::Status TryStart();
  // Where one row's words stand among the encoder's answers.
  struct WordRange {
    size_t first = 0;
    size_t count = 0;
  };

  absl::Status StartEncoding();
  absl::Status StartDecoding();
  // The first `length` ids of a sequence; counts the bytes that they decode to.
  absl::Status AddSequence(size_t sequence, size_t length, size_t* bytes,
                           v1::DecodeInput* input) const;
  absl::Status AddTexts(v1::EncodeRequest* encode) const;
  absl::StatusOr<std::vector<WordRange>> AddWords(const std::string& tensor,
                                                  v1::EncodeRequest* encode) const;
  void OnEncoded(const absl::StatusOr<v1::EncodeResponse>& response);
  absl::Status TryAnswer(const v1::EncodeResponse& response);
  void OnDecoded(const absl::StatusOr<v1::DecodeResponse>& response);
  void Answer(std::vector<InferOutput> outputs);
  void Stop() override;
  TokenizerClient::CallOptions call_options() const;
  const TokenizerBounds& bounds() const;

  std::shared_ptr<TokenizerClient::Call> tokenizer_call_;
  std::vector<WordRange> bad_words_;
  std::vector<WordRange> stop_words_;
  std::vector<InferOutput> outputs_;
  bool has_response_ = false;
  Clock::time_point started_;
};

}  // namespace caravan
