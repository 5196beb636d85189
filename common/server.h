// What every process of Caravan needs around its gRPC services: listening, health, reflection,
// signals, statuses.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace caravan {

// A status travels in headers, of which a client takes 8 KiB (a byte that is not ASCII is three
// there): a longer one would reach it as RESOURCE_EXHAUSTED, whatever it was.
inline constexpr size_t kMaxStatusMessageBytes = 2048;

// The code numbers of absl and gRPC are the same; cancellation and OK included. The middle of a
// message longer than kMaxStatusMessageBytes is left out.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// std::string of a status: "UNAVAILABLE: sentence".
std::string ToString(const absl::Status& status);

struct GrpcServerOptions {
  std::string listen_address = "127.0.0.1:0";  // host:port; port 0 = a free one
  int max_message_bytes = 16 << 20;  // of one received message; a larger one ends its own stream
  // False: compressed messages come as they are, and services decompress them. gRPC itself does so
  // to the end before it looks at the size: a megabyte can become a gigabyte.
  bool decompress = true;
};

// A running gRPC server with grpc.health.v1 (service "" and each given one) and reflection.
class GrpcServer {
 public:
  // Starts to listen; health is NOT_SERVING until SetServing(true). `services` outlive the server.
  // UNAVAILABLE with the address where it can't be had (a port in use, say): an address is never
  // shared with another process.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<grpc::Service*>& services);
  ~GrpcServer();  // Shutdown(now)

  int port() const { return port_; }

  // What grpc.health.v1 answers. Any thread.
  void SetServing(bool serving);

  // No new calls; waits until the running ones ended, cancels what is left at the deadline.
  void Shutdown(absl::Time deadline);
  // The same for services that know when their calls have ended: `await_calls` returns then, or at
  // the deadline. gRPC by itself waits for connections too, for 20 s where a client that has no
  // call reads nothing, and for those who watch health for ever.
  void Shutdown(absl::Time deadline, absl::FunctionRef<void()> await_calls);

 private:
  GrpcServer() = default;

  std::vector<std::string> service_names_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

// A channel to another service: reconnects within at most a second, keepalive pings, the message
// limit above. `target` is host:port.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           int max_message_bytes = 64 << 20);

// Names of a request in metadata, on every call between services.
inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr char kTraceparentKey[] = "traceparent";

// The metadata value of `key`, empty if absent (or longer than 256 bytes, or not printable).
std::string MetadataOf(const grpc::ServerContextBase& context, const std::string& key);

// A random 64-bit number from the operating system: instance ids, seeds.
uint64_t RandomId();

}  // namespace caravan
