#include "common/metrics.h"

#include <netinet/in.h>
#include <prometheus/exposer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

// Connects to a port of this host and hangs up.
void Knock(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  close(fd);
}

// civetweb's: a connection that asks nothing occupies a thread until its time is over, so there are
// several of them, and a short time.
std::vector<std::string> ServerOptions(const std::string& listen_address) {
  return {"listening_ports",       listen_address, "num_threads",       "4",
          "request_timeout_ms",    "1000",         "enable_keep_alive", "yes",
          "keep_alive_timeout_ms", "500"};
}

}  // namespace

MetricsRegistry::MetricsRegistry() : registry_(std::make_shared<prometheus::Registry>()) {}

Counter& MetricsRegistry::AddCounter(const std::string& name, const std::string& help,
                                     const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(labels);
}

Gauge& MetricsRegistry::AddGauge(const std::string& name, const std::string& help,
                                 const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(labels);
}

Histogram& MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                         const std::vector<double>& bounds, const Labels& labels) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(*registry_)
      .Add(labels, bounds);
}

std::vector<double> LatencyBuckets() {
  return {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60};
}

MetricsServer::MetricsServer() = default;

// civetweb's listening thread sees that it shall end only when its poll returns, after up to 2 s:
// connections to it make that at once.
MetricsServer::~MetricsServer() {
  if (exposer_ == nullptr) return;
  std::promise<void> ended;
  std::thread waker([port = port_, done = ended.get_future()] {
    do {
      Knock(port);
    } while (done.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready);
  });
  exposer_.reset();
  ended.set_value();
  waker.join();
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& listen_address, const MetricsRegistry& metrics) {
  if (absl::StartsWith(listen_address, "[")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics_address is ", listen_address,
                     "; metrics are served over IPv4 alone: 0.0.0.0:port for all of this host's"));
  }
  auto server = std::unique_ptr<MetricsServer>(new MetricsServer);
  try {  // civetweb reports a port in use by an exception
    server->exposer_ = std::make_unique<prometheus::Exposer>(ServerOptions(listen_address));
    server->exposer_->RegisterCollectable(metrics.registry());
    for (const auto& collectable : metrics.collectables()) {
      server->exposer_->RegisterCollectable(collectable);
    }
  } catch (const std::exception&) {  // whose text is civetweb's guess
    return absl::UnavailableError(
        absl::StrCat("can't serve metrics on ", listen_address,
                     ": the port is in use or the address is not of this host; choose another "
                     "--metrics_address (port 0 takes a free one)"));
  }
  server->port_ = server->exposer_->GetListeningPorts().at(0);
  return server;
}

}  // namespace caravan
