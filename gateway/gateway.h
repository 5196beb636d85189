// A whole gateway: loop, dispatcher, front doors, server, metrics. What main runs and tests start.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/metrics.h"
#include "common/server.h"
#include "gateway/config.h"
#include "gateway/event_loop.h"
#include "gateway/generation/dispatcher.h"
#include "gateway/http/http_server.h"
#include "gateway/metrics.h"
#include "gateway/native/service.h"
#include "gateway/triton/grpc/service.h"
#include "gateway/triton/http/service.h"
#include "gateway/triton/inference_server.h"

namespace caravan {

// Threads: the event loop, gRPC's own, the HTTP server's and the metrics server's. All state of
// requests is the loop's (see event_loop.h); this object is used by the thread that made it.
class Gateway {
 public:
  // Listens. Health is SERVING once a replica and a tokenizer have been reached.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(const GatewayConfig& config);
  ~Gateway();  // ends what is left

  int port() const { return server_->port(); }
  int http_port() const { return http_server_ == nullptr ? 0 : http_server_->port(); }
  int metrics_port() const { return metrics_server_ == nullptr ? 0 : metrics_server_->port(); }
  GatewayMetrics& metrics() { return metrics_; }

  // Health turns NOT_SERVING at once; new requests are taken for lameduck_ms more; then sessions
  // are told to leave, and this waits until every request has ended, drain_timeout_ms at most.
  // Returns the number of requests that had to be cut off.
  int Drain();

 private:
  explicit Gateway(const GatewayConfig& config);
  absl::Status Listen();
  // Waits for clients that are slow to read their last words.
  void ShutdownServers(absl::Time deadline);

  const GatewayConfig config_;
  MetricsRegistry registry_;
  GatewayMetrics metrics_;
  HttpMetrics http_metrics_;
  EventLoop loop_;
  std::unique_ptr<Dispatcher> dispatcher_;      // made and destroyed on the loop
  std::unique_ptr<InferenceServer> inference_;  // like it; before it goes
  std::unique_ptr<NativeService> native_;
  std::unique_ptr<TritonGrpcService> triton_;       // nullptr: not served
  std::unique_ptr<TritonHttpService> triton_http_;  // like it
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<HttpServer> http_server_;
};

}  // namespace caravan
