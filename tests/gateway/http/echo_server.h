// An HttpServer whose handler says what it was asked, and hands exchanges to the test.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "gateway/http/http_server.h"
#include "tests/gateway/http/raw_http_client.h"

namespace caravan {

// /echo answers "METHOD path body"; every other path waits for the test: see EchoServer::Next.
class EchoServer : private HttpHandler {
 public:
  explicit EchoServer(HttpServerOptions options = {}) : metrics_(registry_) {
    options.listen_address = "127.0.0.1:0";
    auto server = HttpServer::Start(options, this, &metrics_);
    CARAVAN_CHECK(server.ok(), std::string(server.status().message()));
    server_ = *std::move(server);
  }

  int port() const { return server_->port(); }
  HttpServer& server() { return *server_; }
  HttpMetrics& metrics() { return metrics_; }

  // The next exchange of a path other than /echo.
  std::shared_ptr<HttpExchange> Next() {
    std::unique_lock<std::mutex> lock(mutex_);
    CARAVAN_CHECK(
        wake_.wait_for(lock, std::chrono::seconds(20), [this] { return !waiting_.empty(); }),
        "no request came");
    std::shared_ptr<HttpExchange> exchange = std::move(waiting_.front());
    waiting_.pop_front();
    return exchange;
  }

 private:
  void Handle(std::shared_ptr<HttpExchange> exchange) override {
    HttpRequest& request = exchange->request();
    if (request.path == "/echo") {
      HttpResponse response;
      response.content_type = "text/plain";
      response.compressible = true;
      response.body = absl::StrCat(request.method, " ", request.path, " ", request.body);
      return exchange->Respond(std::move(response));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(exchange));
    wake_.notify_all();
  }
  HttpResponse MakeError(int status, std::string_view text) const override {
    HttpResponse response;
    response.status = status;
    response.content_type = "text/plain";
    response.body = std::string(text);
    return response;
  }

  MetricsRegistry registry_;
  HttpMetrics metrics_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<HttpExchange>> waiting_;
  std::unique_ptr<HttpServer> server_;  // last: its threads use the rest
};

// Waits for what only looking tells.
template <typename Condition>
void AwaitTrue(Condition condition) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "it never came to pass";
    std::this_thread::yield();
  }
}

}  // namespace caravan
