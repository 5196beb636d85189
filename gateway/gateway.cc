#include "gateway/gateway.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/status.h"

namespace caravan {

Gateway::Gateway(const GatewayConfig& config) : config_(config), metrics_(registry_) {
  loop_.Run([this] { dispatcher_ = std::make_unique<Dispatcher>(&loop_, config_, &metrics_); });
  native_ = std::make_unique<NativeService>(
      NativeContext{&loop_, dispatcher_.get(), &metrics_, config_.output});
  if (!config.triton.enabled) return;
  loop_.Run([this] {
    inference_ =
        std::make_unique<InferenceServer>(&loop_, dispatcher_.get(), &metrics_, config_.triton);
  });
  triton_ = std::make_unique<TritonGrpcService>(
      &loop_, inference_.get(),
      StreamLimits{config_.triton.max_stream_requests,
                   std::chrono::milliseconds(config_.output.slow_reader_timeout_ms)});
}

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const GatewayConfig& config) {
  std::unique_ptr<Gateway> gateway(new Gateway(config));
  if (!config.metrics_address.empty()) {
    ASSIGN_OR_RETURN(gateway->metrics_server_,
                     MetricsServer::Start(config.metrics_address, gateway->registry_));
  }
  GrpcServerOptions options;
  options.listen_address = config.listen_address;
  options.max_message_bytes = config.max_message_bytes;
  std::vector<grpc::Service*> services = {gateway->native_.get()};
  if (gateway->triton_ != nullptr) services.push_back(gateway->triton_.get());
  ASSIGN_OR_RETURN(gateway->server_, GrpcServer::Start(options, services));
  Gateway* started = gateway.get();
  gateway->loop_.Run([started] {
    started->dispatcher_->Start([started] {
      LogInfo("serving", {{"port", started->port()}});
      started->server_->SetServing(true);
    });
  });
  return gateway;
}

Gateway::~Gateway() {
  if (server_ != nullptr) {
    loop_.Run(
        [this] { dispatcher_->EndAll(absl::UnavailableError("the gateway is shutting down")); });
    // Calls that do not end by themselves (idle sessions, clients that do not read) are cancelled.
    server_->Shutdown(absl::Now() + absl::Milliseconds(200));
  }
  loop_.Run([this] {
    inference_ = nullptr;
    dispatcher_ = nullptr;
  });
  loop_.Stop();
}

int Gateway::Drain() {
  server_->SetServing(false);
  LogInfo("draining",
          {{"lameduck_ms", config_.lameduck_ms}, {"drain_timeout_ms", config_.drain_timeout_ms}});
  std::this_thread::sleep_for(std::chrono::milliseconds(config_.lameduck_ms));
  const auto idle = std::make_shared<std::promise<void>>();
  loop_.Run([this, idle] {
    native_->GoAway("the gateway is draining", static_cast<uint32_t>(config_.drain_timeout_ms));
    dispatcher_->Drain([idle] { idle->set_value(); });
  });
  idle->get_future().wait_for(std::chrono::milliseconds(config_.drain_timeout_ms));
  int num_left = 0;
  loop_.Run([this, &num_left] { num_left = static_cast<int>(dispatcher_->num_requests()); });
  loop_.Run([this] {
    dispatcher_->EndAll(absl::UnavailableError(
        "the gateway is shutting down and the request did not finish in time; send it to another"));
  });
  // Clients that are slow to read their last words.
  server_->Shutdown(absl::Now() +
                    std::min(absl::Seconds(2), absl::Milliseconds(config_.drain_timeout_ms)));
  LogInfo("drained", {{"requests_cut_off", num_left}});
  return num_left;
}

}  // namespace caravan
