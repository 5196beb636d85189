// What the gateway can be told. Defaults live here; flags of the same names point at them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/http/http_options.h"

namespace caravan {

// Bounds on what one model's clients may ask for at once.
struct AdmissionLimits {
  // Requests of a model that are encoded, run or deliver at once. More wait in the queue.
  int max_inflight_requests = 2048;
  // Requests of a model that wait: for a place in flight, or for a replica to be ready. More are
  // refused with RESOURCE_EXHAUSTED.
  int max_queued_requests = 4096;
  // Requests of one client (its address) that wait or are in flight; 0 = no limit.
  int max_requests_per_client = 0;
  // A request that waits longer ends with UNAVAILABLE (no replica ready) or RESOURCE_EXHAUSTED.
  int queue_timeout_ms = 30000;
};

// Bounds on what is kept for a client that reads slowly. A request that passes one of them ends
// with RESOURCE_EXHAUSTED after the tokens that it has buffered.
//
// What waits for all of them together is bounded too, because a request keeps its place in flight
// until its output has left. A gateway keeps for them at most
//   2 x max_inflight_requests x (max_buffered_bytes + 16 KiB)   of each model
//   + 2 MiB for each open Session and 64 KiB for each other call
// where 2 is what the heap adds, 16 KiB one message, and 2 MiB the 64 messages on their way. Of a
// request at Triton's doors, and of beams, its whole output is kept instead, whatever the buffer's
// bounds: about 32 bytes for each token of each row and beam; and of a stream that shows beams as
// they stand 16 bytes more, 4 MiB of looks (or one look), 4 MiB of what rows have shown beyond
// others (or one look of each), and the prompts with their texts once more.
// tests/cluster/slow_readers_test.py measures it.
struct OutputLimits {
  int max_buffered_tokens = 4096;    // of one request
  int max_buffered_bytes = 1 << 20;  // of one request: text, ids and log probabilities
  // A call whose client takes nothing for so long is broken off once its request has ended (a
  // Session: at once). What an ended request of a Session still has is dropped when no credit
  // comes for so long.
  int slow_reader_timeout_ms = 30000;
};

// The doors for clients of Triton Inference Server; gRPC's is on listen_address.
struct TritonConfig {
  bool enabled = true;
  std::string model;          // the served model behind them; empty: the only one
  bool decoupled = true;      // what ModelConfig reports; both kinds of calls work either way
  int max_batch_size = 1024;  // rows of one request
  // A stream's partial responses come at prompt and output lengths that this divides (the succeeded
  // system's LLAMA_STREAM_CB_STEP).
  int stream_interval = 5;
  bool stop_on_tokenizer_eos = false;    // also where a request names an end_id of its own
  bool explicit_model_control = false;   // models are loaded and unloaded by clients
  std::vector<std::string> load_models;  // with explicit control: loaded at start; "*" = all
  bool shared_memory = true;             // clients may register system shared memory
  std::string trace_file;                // where traces go; empty: there can be none
  int max_stream_requests = 1024;        // of one stream that have not ended; more are not read
  bool latency_metrics = false;          // distributions too: summaries and a histogram
  // Reported, in ModelConfig of fastertransformer.
  int tensor_parallel = 1;
  std::string data_type = "fp16";
  std::string checkpoint_path;
};

struct GatewayConfig {
  std::string listen_address = "0.0.0.0:8001";   // gRPC: native API, Triton's, health, reflection
  std::string http_address = "0.0.0.0:8000";     // Triton's API over HTTP; empty: none
  std::string metrics_address = "0.0.0.0:8002";  // http://…/metrics; empty: none
  std::vector<std::string> replicas;             // host:port of the leader (rank 0) of each
  std::vector<std::string> tokenizers;           // host:port of each
  std::string port_file;             // grpc=, http= and metrics=PORT lines, written atomically
  int max_message_bytes = 64 << 20;  // of one received message; a larger one ends its own stream
  int tokenizer_timeout_ms =
      5000;                      // how long a request waits for a tokenizer that can't be reached
  int drain_timeout_ms = 30000;  // SIGTERM: time for requests in flight to finish
  int lameduck_ms = 0;  // SIGTERM: time during which new requests are still taken, not ready though
  AdmissionLimits admission;
  OutputLimits output;
  HttpServerOptions http;  // its address is http_address, its bounds for slow readers `output`'s
  TritonConfig triton;
};

// From flags; INVALID_ARGUMENT names the flag and the limit.
absl::StatusOr<GatewayConfig> LoadGatewayConfig();

}  // namespace caravan
