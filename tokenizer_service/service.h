// The RPCs of caravan.v1.Tokenizer.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "caravan/v1/tokenizer.grpc.pb.h"
#include "tokenizer_service/chat_template.h"
#include "tokenizer_service/config.h"
#include "tokenizer_service/decode_session.h"
#include "tokenizer_service/metrics.h"
#include "tokenizer_service/tokenizer.h"
#include "tokenizer_service/work_pool.h"

namespace caravan {

// Short requests are answered on gRPC's threads, long ones on a few of its own: a long text delays
// no other call. Outlives the server that it is registered with.
class TokenizerService final : public v1::Tokenizer::CallbackService {
 public:
  // `tokenizer` and `metrics` outlive it. `chat_format`: what "auto" means, or why it can't be
  // told.
  TokenizerService(const Tokenizer* tokenizer, absl::StatusOr<ChatFormat> chat_format,
                   const TokenizerLimits& limits, TokenizerMetrics* metrics);

  // Decode sessions end as soon as they have no open sequence.
  void Drain();
  // Blocks until no call is left, or until the deadline.
  void AwaitCalls(absl::Time deadline);

  grpc::ServerUnaryReactor* Encode(grpc::CallbackServerContext* context,
                                   const v1::EncodeRequest* request,
                                   v1::EncodeResponse* response) override;
  grpc::ServerUnaryReactor* Decode(grpc::CallbackServerContext* context,
                                   const v1::DecodeRequest* request,
                                   v1::DecodeResponse* response) override;
  grpc::ServerUnaryReactor* ApplyChatTemplate(grpc::CallbackServerContext* context,
                                              const v1::ApplyChatTemplateRequest* request,
                                              v1::ApplyChatTemplateResponse* response) override;
  grpc::ServerUnaryReactor* GetVocabulary(grpc::CallbackServerContext* context,
                                          const v1::GetVocabularyRequest* request,
                                          v1::GetVocabularyResponse* response) override;
  grpc::ServerBidiReactor<v1::DecodeSessionRequest, v1::DecodeSessionResponse>* DecodeSession(
      grpc::CallbackServerContext* context) override;

 private:
  using Handler = std::function<absl::Status()>;
  struct Rpc {
    const char* name;
    RpcMetrics* metrics;
  };
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context, Rpc rpc, size_t request_bytes,
                                Handler handler);
  absl::Status EncodeBatch(const v1::EncodeRequest& request, v1::EncodeResponse& response);
  absl::Status DecodeBatch(const v1::DecodeRequest& request, v1::DecodeResponse& response);
  absl::Status EncodeChat(const v1::ApplyChatTemplateRequest& request,
                          v1::ApplyChatTemplateResponse& response);
  void DescribeVocabulary(bool include_tokens, v1::GetVocabularyResponse& response) const;
  absl::Status CheckBatchSize(int num_inputs) const;
  absl::StatusOr<ChatFormat> FormatOf(const std::string& name) const;

  const Tokenizer* tokenizer_;
  const absl::StatusOr<ChatFormat> chat_format_;
  const TokenizerLimits limits_;
  TokenizerMetrics* metrics_;
  std::mutex calls_mutex_;  // guards what follows
  std::condition_variable calls_ended_;
  std::unordered_set<DecodeSessionReactor*> sessions_;
  int num_unary_calls_ = 0;
  bool is_draining_ = false;
  WorkPool long_requests_;
};

}  // namespace caravan
