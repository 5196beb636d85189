#include "common/server.h"

#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/impl/server_initializer.h>
#include <sys/random.h>

#include <future>
#include <mutex>
#include <utility>

#include "common/log.h"
#include "common/status.h"

namespace caravan {
namespace {

// gRPC's own lines tell of connections that come and go, which we report in our words: they are for
// debugging.
void LogFromGrpc(gpr_log_func_args* line) {
  LogDebug("grpc", {{"message", line->message}, {"file", line->file}, {"line", line->line}});
}

// Logging, health and reflection are process-wide switches of gRPC, to be set before the first
// server or channel.
void ConfigureGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function(LogFromGrpc);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

// Learns the names of a server's services when it is built.
class ServiceNames : public grpc::ServerBuilderPlugin {
 public:
  explicit ServiceNames(std::vector<std::string>* names) : names_(names) {}
  std::string name() override { return "service_names"; }
  void InitServer(grpc::ServerInitializer*) override {}
  void Finish(grpc::ServerInitializer* initializer) override {
    *names_ = *initializer->GetServiceList();
  }
  void ChangeArguments(const std::string&, void*) override {}

 private:
  std::vector<std::string>* names_;
};

class LearnServiceNames : public grpc::ServerBuilderOption {
 public:
  explicit LearnServiceNames(std::vector<std::string>* names) : names_(names) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<ServiceNames>(names_));
  }

 private:
  std::vector<std::string>* names_;
};

bool BeginsCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

// Without the middle where it is longer than kMaxStatusMessageBytes: what was refused stands in
// front, what is taken at the end. Cut between characters.
std::string Shorten(std::string message) {
  if (message.size() <= kMaxStatusMessageBytes) return message;
  const std::string cut = " … ";
  constexpr size_t kTailBytes = kMaxStatusMessageBytes / 4;
  size_t end = kMaxStatusMessageBytes - kTailBytes - cut.size();
  while (end > 0 && !BeginsCharacter(message[end])) --end;
  size_t begin = message.size() - kTailBytes;
  while (begin < message.size() && !BeginsCharacter(message[begin])) ++begin;
  return message.substr(0, end) + cut + message.substr(begin);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), Shorten(std::string(status.message()))};
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

std::string ToString(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  ConfigureGrpc();
  auto server = std::unique_ptr<GrpcServer>(new GrpcServer);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen_address, grpc::InsecureServerCredentials(),
                           &server->port_);
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, options.decompress ? 1 : 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients may ping idle connections as often as MakeChannel does.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Nor does a client that pings more often lose its connection: some come configured so.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.SetOption(std::make_unique<LearnServiceNames>(&server->service_names_));
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || server->port_ == 0) {
    server->server_ = nullptr;
    return absl::UnavailableError(absl::StrCat(
        "can't listen on ", options.listen_address,
        ": the port is in use or the address is not of this host; choose another --listen_address "
        "(port 0 takes a free one)"));
  }
  server->SetServing(false);
  return server;
}

GrpcServer::~GrpcServer() { Shutdown(absl::Now()); }

void GrpcServer::SetServing(bool serving) {
  if (server_ == nullptr) return;
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);
  for (const std::string& name : service_names_) health->SetServingStatus(name, serving);
}

void GrpcServer::Shutdown(absl::Time deadline) {
  if (server_ == nullptr) return;
  server_->Shutdown(absl::ToChronoTime(deadline));
  server_ = nullptr;
}

void GrpcServer::Shutdown(absl::Time deadline, absl::FunctionRef<void()> await_calls) {
  if (server_ == nullptr) return;
  // Clients that read at all have said by then that they know of the end.
  constexpr std::chrono::milliseconds kGoodbyeTime(500);
  const std::future<void> ended = std::async(
      std::launch::async, [this, deadline] { server_->Shutdown(absl::ToChronoTime(deadline)); });
  await_calls();
  if (ended.wait_for(kGoodbyeTime) == std::future_status::timeout) {
    grpc_server_cancel_all_calls(server_->c_server());
  }
  ended.wait();
  server_ = nullptr;
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target, int max_message_bytes) {
  ConfigureGrpc();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(max_message_bytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A connection of its own for each channel, so that one process can hold several streams' worth
  // of windows.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

std::string MetadataOf(const grpc::ServerContextBase& context, const std::string& key) {
  constexpr size_t kMaxBytes = 256;
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(grpc::string_ref(key));
  if (found == metadata.end() || found->second.size() > kMaxBytes) return "";
  for (const char c : found->second) {
    if (c < ' ' || c > '~') return "";
  }
  return {found->second.data(), found->second.size()};
}

uint64_t RandomId() {
  uint64_t value = 0;
  CARAVAN_CHECK(getrandom(&value, sizeof(value), 0) == static_cast<ssize_t>(sizeof(value)));
  return value;
}

}  // namespace caravan
