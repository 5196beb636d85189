// An asynchronous HTTP/1.1 server: keep-alive, pipelining, compression, streamed answers. Knows no
// front door: what a request means is its handler's.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/http/http_exchange.h"
#include "gateway/http/http_metrics.h"
#include "gateway/http/http_options.h"

namespace caravan {

// Threads: each connection belongs to one of num_threads; Handle is called there, or on a thread
// for large bodies (above 64 KiB).
class HttpServer {
 public:
  // UNAVAILABLE with the address where it can't be had. `handler` outlives the server, `metrics`
  // every exchange.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           HttpHandler* handler,
                                                           HttpMetrics* metrics);
  ~HttpServer();  // as Shutdown(now)

  int port() const;

  // Connections close after the answer they are at, idle ones at once, new ones after their first;
  // the port stays open until Shutdown, for clients that have not noticed.
  void Drain();
  // Waits until no request is being answered, to the last byte that the system takes, or until
  // `deadline`: how many still are. After Drain each connection has at most one.
  int AwaitAnswers(absl::Time deadline);
  // Closes the port, waits until all connections have ended, or until `deadline`, and cuts the
  // rest. Returns when no handler runs any more. Exchanges may outlive it.
  void Shutdown(absl::Time deadline);

 private:
  struct Impl;
  HttpServer();
  std::unique_ptr<Impl> impl_;
};

}  // namespace caravan
