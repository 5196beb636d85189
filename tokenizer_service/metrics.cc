#include "tokenizer_service/metrics.h"

namespace caravan {
namespace {

RpcMetrics AddRpc(MetricsRegistry& registry, const std::string& rpc) {
  constexpr char kName[] = "caravan_tokenizer_requests_total";
  constexpr char kHelp[] = "Unary calls, by how they ended.";
  return {
      registry.AddCounter(kName, kHelp, {{"rpc", rpc}, {"outcome", "ok"}}),
      registry.AddCounter(kName, kHelp, {{"rpc", rpc}, {"outcome", "refused"}}),
      registry.AddHistogram(
          "caravan_tokenizer_request_seconds", "Time from a request's arrival to its answer.",
          {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5},
          {{"rpc", rpc}})};
}

}  // namespace

TokenizerMetrics::TokenizerMetrics(MetricsRegistry& registry)
    : encode(AddRpc(registry, "Encode")),
      decode(AddRpc(registry, "Decode")),
      apply_chat_template(AddRpc(registry, "ApplyChatTemplate")),
      get_vocabulary(AddRpc(registry, "GetVocabulary")),
      encoded_bytes(registry.AddCounter("caravan_tokenizer_encoded_bytes_total",
                                        "Bytes of text that became tokens.")),
      encoded_tokens(registry.AddCounter("caravan_tokenizer_encoded_tokens_total",
                                         "Tokens that texts became.")),
      decoded_tokens(registry.AddCounter("caravan_tokenizer_decoded_tokens_total",
                                         "Tokens that became text, in sessions too.")),
      refused_session_messages(
          registry.AddCounter("caravan_tokenizer_refused_session_messages_total",
                              "Messages in decode sessions that were answered by an error.")),
      sessions(registry.AddGauge("caravan_tokenizer_sessions", "Decode sessions that are open.")),
      sequences(registry.AddGauge("caravan_tokenizer_sequences",
                                  "Sequences that are open in all decode sessions.")) {}

}  // namespace caravan
