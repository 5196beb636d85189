// Triton's HTTP door: the paths under /v2.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/event_loop.h"
#include "gateway/http/http_exchange.h"
#include "gateway/triton/http/http_infer.h"
#include "gateway/triton/http/routes.h"
#include "gateway/triton/inference_server.h"

namespace caravan {

// Requests are parsed on the HTTP server's threads and carried out on the loop.
class TritonHttpService : public HttpHandler {
 public:
  // Both outlive the exchanges' answers.
  TritonHttpService(EventLoop* loop, InferenceServer* server) : loop_(loop), server_(server) {}

  void Handle(std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse MakeError(int status, std::string_view text) const override;

 private:
  void Infer(const Route& route, const std::shared_ptr<HttpExchange>& exchange);
  void Generate(const Route& route, const std::shared_ptr<HttpExchange>& exchange);

  EventLoop* const loop_;
  InferenceServer* const server_;
};

}  // namespace caravan
