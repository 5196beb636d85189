// What the tokenizer service counts.
#pragma once

#include <string>

#include "common/metrics.h"

namespace caravan {

struct RpcMetrics {
  Counter& finished;  // with OK
  Counter& refused;   // with any other status
  Histogram& seconds;
};

struct TokenizerMetrics {
  explicit TokenizerMetrics(MetricsRegistry& registry);

  RpcMetrics encode;
  RpcMetrics decode;
  RpcMetrics apply_chat_template;
  RpcMetrics get_vocabulary;
  Counter& encoded_bytes;
  Counter& encoded_tokens;
  Counter& decoded_tokens;  // of Decode and of sessions
  Counter& refused_session_messages;
  Gauge& sessions;
  Gauge& sequences;
};

}  // namespace caravan
