// A page of text over HTTP/1.1 on a thread of its own: what Prometheus scrapes.
//
// Not civetweb, which prometheus-cpp brings: it gives its threads 100 KiB of stack, of which the
// thread-local memory of libcublasLt and libnccl leaves nothing, so that a program linked with them
// can't start it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace caravan {

class TextServer {
 public:
  struct Page {
    std::string path;                    // "/metrics"; others are not found
    std::string content_type;            // "text/plain; charset=utf-8"
    std::function<std::string()> write;  // the text, on the server's thread
  };

  // UNAVAILABLE with the address where it can't be had. Port 0 = a free one. Connections are served
  // one after the other, each for a few seconds at most.
  static absl::StatusOr<std::unique_ptr<TextServer>> Start(const std::string& listen_address,
                                                           Page page);
  ~TextServer();  // ends at once

  int port() const { return port_; }

 private:
  TextServer(int listener, int stop, int port, Page page);
  void Serve();
  void Answer(int connection) const;
  bool Await(int fd, short events, int timeout_ms) const;  // false: timed out, or to end

  const int listener_;
  const int stop_;  // readable once the server is to end
  const int port_;
  const Page page_;
  std::thread thread_;
};

}  // namespace caravan
