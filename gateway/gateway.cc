#include "gateway/gateway.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "gateway/gpu_metrics.h"
#include "gateway/host_metrics.h"
#include "gateway/triton/metrics.h"
#include "gateway/triton/model_repository.h"

namespace caravan {

Gateway::Gateway(const GatewayConfig& config)
    : config_(config), metrics_(registry_), http_metrics_(registry_) {
  loop_.Run([this] { dispatcher_ = std::make_unique<Dispatcher>(&loop_, config_, &metrics_); });
  native_ = std::make_unique<NativeService>(
      NativeContext{&loop_, dispatcher_.get(), &metrics_, config_.output,
                    static_cast<size_t>(config_.max_message_bytes)});
  if (!config.triton.enabled) return;
  loop_.Run([this] {
    inference_ =
        std::make_unique<InferenceServer>(&loop_, dispatcher_.get(), &metrics_, config_.triton);
  });
  triton_ = std::make_unique<TritonGrpcService>(
      &loop_, inference_.get(),
      StreamLimits{config_.triton.max_stream_requests,
                   std::chrono::milliseconds(config_.output.slow_reader_timeout_ms),
                   static_cast<size_t>(config_.max_message_bytes)});
  triton_http_ = std::make_unique<TritonHttpService>(&loop_, inference_.get());
  registry_.Add(std::make_shared<TritonMetrics>(inference_.get()));
  registry_.Add(std::make_shared<HostMetrics>());
  registry_.Add(std::make_shared<GpuMetrics>());
}

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const GatewayConfig& config) {
  RETURN_IF_ERROR(CheckLoadModels(config.triton));
  std::unique_ptr<Gateway> gateway(new Gateway(config));
  RETURN_IF_ERROR(gateway->Listen());
  Gateway* started = gateway.get();
  gateway->loop_.Run([started] {
    started->dispatcher_->Start([started] {
      LogInfo("serving", {{"port", started->port()}});
      started->server_->SetServing(true);
    });
  });
  return gateway;
}

absl::Status Gateway::Listen() {
  if (!config_.metrics_address.empty()) {
    ASSIGN_OR_RETURN(metrics_server_, MetricsServer::Start(config_.metrics_address, registry_));
  }
  GrpcServerOptions options;
  options.listen_address = config_.listen_address;
  options.max_message_bytes = config_.max_message_bytes;
  options.decompress = false;
  std::vector<grpc::Service*> services = {native_.get()};
  if (triton_ != nullptr) services.push_back(triton_.get());
  ASSIGN_OR_RETURN(server_, GrpcServer::Start(options, services));
  if (triton_http_ == nullptr || config_.http_address.empty()) return absl::OkStatus();
  HttpServerOptions http = config_.http;
  http.listen_address = config_.http_address;
  http.slow_reader_timeout_ms = config_.output.slow_reader_timeout_ms;
  http.max_stream_buffer_bytes = config_.output.max_buffered_bytes;
  ASSIGN_OR_RETURN(http_server_, HttpServer::Start(http, triton_http_.get(), &http_metrics_));
  return absl::OkStatus();
}

Gateway::~Gateway() {
  if (server_ != nullptr) {
    loop_.Run(
        [this] { dispatcher_->EndAll(absl::UnavailableError("the gateway is shutting down")); });
    // Calls that do not end by themselves (idle sessions, clients that do not read) are cancelled.
    ShutdownServers(absl::Now() + absl::Milliseconds(200));
  }
  loop_.Run([this] {
    inference_ = nullptr;
    dispatcher_ = nullptr;
  });
  loop_.Stop();
}

void Gateway::ShutdownServers(absl::Time deadline) {
  server_->Shutdown(deadline);
  if (http_server_ != nullptr) http_server_->Shutdown(deadline);
}

int Gateway::Drain() {
  server_->SetServing(false);
  LogInfo("draining",
          {{"lameduck_ms", config_.lameduck_ms}, {"drain_timeout_ms", config_.drain_timeout_ms}});
  std::this_thread::sleep_for(std::chrono::milliseconds(config_.lameduck_ms));
  if (http_server_ != nullptr) http_server_->Drain();
  const absl::Time deadline = absl::Now() + absl::Milliseconds(config_.drain_timeout_ms);
  const auto idle = std::make_shared<std::promise<void>>();
  loop_.Run([this, idle] {
    native_->GoAway("the gateway is draining", static_cast<uint32_t>(config_.drain_timeout_ms));
    dispatcher_->Drain([idle] { idle->set_value(); });
  });
  idle->get_future().wait_until(absl::ToChronoTime(deadline));
  // What has left the generations may still wait for a client that reads slowly.
  const int num_answers = http_server_ == nullptr ? 0 : http_server_->AwaitAnswers(deadline);
  int num_left = 0;
  loop_.Run([this, &num_left] { num_left = static_cast<int>(dispatcher_->num_unfinished()); });
  loop_.Run([this] {
    dispatcher_->EndAll(absl::UnavailableError(
        "the gateway is shutting down and the request did not finish in time; send it to another"));
  });
  ShutdownServers(absl::Now() +
                  std::min(absl::Seconds(2), absl::Milliseconds(config_.drain_timeout_ms)));
  num_left = std::max(num_left, num_answers);
  LogInfo("drained", {{"requests_cut_off", num_left}});
  return num_left;
}

}  // namespace caravan
