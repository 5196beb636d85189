// POST …/infer, …/generate and …/generate_stream under way.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/event_loop.h"
#include "gateway/http/http_exchange.h"
#include "gateway/triton/http/infer_json.h"
#include "gateway/triton/inference_server.h"

namespace caravan {

enum class InferForm : uint8_t { kInfer, kGenerate, kGenerateStream };

// Its state is the loop's; the texts of answers are made on the exchange's thread. Of a stream a
// few events are on their way at a time: what the model makes meanwhile waits in the inference,
// which bounds it. Keeps itself alive until the inference has ended or the client is gone.
class HttpInfer : private InferSink, public std::enable_shared_from_this<HttpInfer> {
 public:
  HttpInfer(EventLoop* loop, InferenceServer* server, std::shared_ptr<HttpExchange> exchange,
            InferForm form, OutputForm output_form);

  // Any thread. The rest follows on the loop.
  void Start(InferRequest request);

 private:
  void Begin(InferRequest request);
  void OnInferReady() override;
  void Advance();
  void Answer(InferResponse response);
  void AnswerEvents(std::vector<InferResponse> events);
  void Fail(const absl::Status& status);
  void OnDrained();
  void OnGone();
  void Finish();

  EventLoop* const loop_;
  InferenceServer* const server_;
  const std::shared_ptr<HttpExchange> exchange_;
  const InferForm form_;
  const OutputForm output_form_;
  std::shared_ptr<HttpInfer> self_;  // while it is under way
  std::shared_ptr<Inference> inference_;
  bool streaming_ = false;  // the head of the stream was sent
  bool writing_ = false;    // an event is on its way
};

}  // namespace caravan
