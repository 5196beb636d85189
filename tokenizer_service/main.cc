// The tokenizer service: text to token ids and back, for gateways.
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "common/flags.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/port_file.h"
#include "common/server.h"
#include "common/shutdown_signal.h"
#include "common/status.h"
#include "tokenizer_service/chat_template.h"
#include "tokenizer_service/config.h"
#include "tokenizer_service/metrics.h"
#include "tokenizer_service/service.h"
#include "tokenizer_service/tokenizer.h"

namespace caravan {
namespace {

absl::StatusOr<ChatFormat> ChatFormatOf(const TokenizerConfig& config, const Tokenizer& tokenizer) {
  if (config.chat_format != "auto") return ParseChatFormat(config.chat_format);
  return DetectChatFormat(tokenizer.chat_template());
}

absl::Status Serve(const TokenizerConfig& config, ShutdownSignal& signal) {
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(config.tokenizer));
  LogInfo("loaded", {{"tokenizer", config.tokenizer},
                     {"kind", tokenizer->vocabulary().kind},
                     {"vocabulary", tokenizer->vocabulary().size()}});
  MetricsRegistry registry;
  TokenizerMetrics metrics(registry);
  TokenizerService service(tokenizer.get(), ChatFormatOf(config, *tokenizer), config.limits,
                           &metrics);
  ASSIGN_OR_RETURN(
      std::unique_ptr<GrpcServer> server,
      GrpcServer::Start({config.listen_address, config.limits.max_message_bytes}, {&service}));
  std::vector<std::pair<std::string, int>> ports = {{"grpc", server->port()}};
  std::unique_ptr<MetricsServer> metrics_server;
  if (!config.metrics_address.empty()) {
    ASSIGN_OR_RETURN(metrics_server, MetricsServer::Start(config.metrics_address, registry));
    ports.emplace_back("metrics", metrics_server->port());
  }
  server->SetServing(true);
  LogInfo("listening", {{"port", server->port()},
                        {"metrics_port", metrics_server ? metrics_server->port() : 0}});
  if (!config.port_file.empty()) RETURN_IF_ERROR(WritePortFile(config.port_file, ports));
  int number = signal.Wait();
  LogInfo("draining", {{"signal", number}, {"timeout_ms", config.drain_timeout_ms}});
  signal.ExitOnNext();
  server->SetServing(false);
  service.Drain();
  const absl::Time deadline = absl::Now() + absl::Milliseconds(config.drain_timeout_ms);
  server->Shutdown(deadline, [&service, deadline] { service.AwaitCalls(deadline); });
  LogInfo("stopped");
  return absl::OkStatus();
}

}  // namespace
}  // namespace caravan

int main(int argc, char** argv) {
  caravan::ParseFlags("Turns text into token ids and back, for Caravan's gateways.", argc, argv);
  caravan::InitLogFromFlags("tokenizer");
  caravan::ShutdownSignal signal;
  auto config = caravan::LoadTokenizerConfig();
  if (!config.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[0], std::string(config.status().message()).c_str());
    return 2;
  }
  caravan::LogFlags();
  absl::Status status = caravan::Serve(*config, signal);
  if (status.ok()) return 0;
  caravan::LogError("failed", {{"error", caravan::ToString(status)}});
  return 1;
}
