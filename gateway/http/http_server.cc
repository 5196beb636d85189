#include "gateway/http/http_server.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status.h"
#include "gateway/http/http_connection.h"

namespace caravan {
namespace {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

// "[::]:8000" → an endpoint; names are looked up.
absl::StatusOr<asio::ip::tcp::endpoint> Resolve(const std::string& address, asio::io_context* io) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is not host:port"));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  asio::ip::tcp::resolver resolver(*io);
  ErrorCode error;
  const auto found = resolver.resolve(
      host, address.substr(colon + 1),
      asio::ip::resolver_base::passive | asio::ip::resolver_base::numeric_service, error);
  if (error || found.empty()) {
    return absl::UnavailableError(
        absl::StrCat("can't find the address ", address, ": ", error.message()));
  }
  return found.begin()->endpoint();
}

}  // namespace

struct HttpServer::Impl {
  explicit Impl(std::shared_ptr<HttpServerState> server_state)
      : state(std::move(server_state)), acceptor(*state->ios[0]), retry_timer(*state->ios[0]) {}

  absl::Status Listen();
  void Run();
  void Accept();
  void Add(asio::ip::tcp::socket socket, asio::io_context* io);
  void StopAccepting();
  std::vector<std::shared_ptr<HttpConnection>> Connections() const;

  const std::shared_ptr<HttpServerState> state;
  asio::ip::tcp::acceptor acceptor;
  asio::steady_timer retry_timer;
  int port = 0;
  size_t next_io = 0;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::vector<std::thread> threads;
};

absl::Status HttpServer::Impl::Listen() {
  ASSIGN_OR_RETURN(const asio::ip::tcp::endpoint endpoint,
                   Resolve(state->options.listen_address, state->ios[0].get()));
  ErrorCode error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("can't listen on ", state->options.listen_address, ": ", error.message(),
                     "; choose another --http_address (port 0 takes a free one)"));
  }
  port = acceptor.local_endpoint(error).port();
  return absl::OkStatus();
}

void HttpServer::Impl::Run() {
  for (const auto& io : state->ios) {
    work.push_back(asio::make_work_guard(*io));
    threads.emplace_back([context = io.get()] { context->run(); });
  }
  asio::post(*state->ios[0], [this] { Accept(); });
}

void HttpServer::Impl::Accept() {
  asio::io_context* io = state->ios[next_io++ % state->ios.size()].get();
  acceptor.async_accept(*io, [this, io](const ErrorCode& error, asio::ip::tcp::socket socket) {
    if (!acceptor.is_open() || error == asio::error::operation_aborted) return;
    if (!error) {
      Add(std::move(socket), io);
      return Accept();
    }
    // Out of file descriptors, mostly: some will come free.
    LogWarning("can't accept a connection", {{"error", error.message()}});
    retry_timer.expires_after(std::chrono::milliseconds(100));
    retry_timer.async_wait([this](const ErrorCode& cancelled) {
      if (!cancelled && acceptor.is_open()) Accept();
    });
  });
}

void HttpServer::Impl::Add(asio::ip::tcp::socket socket, asio::io_context* io) {
  size_t num_connections = 0;
  {
    const std::lock_guard<std::mutex> lock(state->mutex);
    num_connections = state->connections.size();
  }
  const bool refuse = num_connections >= static_cast<size_t>(state->options.max_connections);
  auto connection = std::make_shared<HttpConnection>(state, io, std::move(socket));
  connection->Register();  // not before it can be shared: others take their shares from the list
  asio::post(*io, [connection = std::move(connection), refuse] {
    refuse ? connection->Refuse() : connection->Start();
  });
}

void HttpServer::Impl::StopAccepting() {
  asio::post(*state->ios[0], [this] {
    ErrorCode ignored;
    acceptor.close(ignored);
    retry_timer.cancel(ignored);
  });
}

std::vector<std::shared_ptr<HttpConnection>> HttpServer::Impl::Connections() const {
  const std::lock_guard<std::mutex> lock(state->mutex);
  std::vector<std::shared_ptr<HttpConnection>> connections;
  for (HttpConnection* connection : state->connections) {
    if (auto alive = connection->weak_from_this().lock()) connections.push_back(std::move(alive));
  }
  return connections;
}

HttpServer::HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              HttpHandler* handler,
                                                              HttpMetrics* metrics) {
  std::unique_ptr<HttpServer> server(new HttpServer);
  server->impl_ =
      std::make_unique<Impl>(std::make_shared<HttpServerState>(options, handler, metrics));
  RETURN_IF_ERROR(server->impl_->Listen());
  server->impl_->Run();
  return server;
}

HttpServer::~HttpServer() { Shutdown(absl::Now()); }

int HttpServer::port() const { return impl_->port; }

void HttpServer::Drain() {
  impl_->state->draining = true;
  for (const auto& connection : impl_->Connections()) connection->PostDrain();
}

int HttpServer::AwaitAnswers(absl::Time deadline) {
  std::unique_lock<std::mutex> lock(impl_->state->mutex);
  impl_->state->answers_ended.wait_until(lock, absl::ToChronoTime(deadline),
                                         [this] { return impl_->state->num_answers == 0; });
  return impl_->state->num_answers;
}

void HttpServer::Shutdown(absl::Time deadline) {
  if (impl_->threads.empty()) return;
  impl_->StopAccepting();
  Drain();
  {
    std::unique_lock<std::mutex> lock(impl_->state->mutex);
    impl_->state->none_left.wait_until(lock, absl::ToChronoTime(deadline),
                                       [this] { return impl_->state->connections.empty(); });
  }
  // A connection that was being accepted may come late: until none is left.
  for (auto left = impl_->Connections(); !left.empty(); left = impl_->Connections()) {
    for (const auto& connection : left) connection->PostClose();
    std::unique_lock<std::mutex> lock(impl_->state->mutex);
    impl_->state->none_left.wait_for(lock, std::chrono::milliseconds(10));
  }
  impl_->state->large_bodies.join();
  impl_->work.clear();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->threads.clear();
}

}  // namespace caravan
