#include "gateway/config.h"

#include "absl/flags/flag.h"
#include "common/flags.h"
#include "common/regular_file.h"
#include "common/status.h"

using caravan::GatewayConfig;

ABSL_FLAG(std::string, listen_address, GatewayConfig{}.listen_address,
          "Where clients connect (gRPC), host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, http_address, GatewayConfig{}.http_address,
          "Where clients connect by HTTP, host:port; port 0 takes a free one; empty: nowhere.");
ABSL_FLAG(int, http_threads, GatewayConfig{}.http.num_threads,
          "Threads that serve HTTP connections.");
ABSL_FLAG(int, http_large_body_threads, GatewayConfig{}.http.num_large_body_threads,
          "Threads that parse large bodies of HTTP requests and compress large answers.");
ABSL_FLAG(int, http_max_connections, GatewayConfig{}.http.max_connections,
          "HTTP connections at once; more are refused.");
ABSL_FLAG(int, http_max_header_bytes, GatewayConfig{}.http.max_header_bytes,
          "Largest header of an HTTP request.");
ABSL_FLAG(int, http_max_body_bytes, GatewayConfig{}.http.max_body_bytes,
          "Largest body of an HTTP request, as sent and decompressed.");
ABSL_FLAG(int64_t, http_max_all_bodies_bytes, GatewayConfig{}.http.max_all_bodies_bytes,
          "Bodies of all HTTP requests at once; more requests are refused.");
ABSL_FLAG(int, http_header_timeout_ms, GatewayConfig{}.http.header_timeout_ms,
          "How long the headers of an HTTP request may take to come.");
ABSL_FLAG(int, http_body_timeout_ms, GatewayConfig{}.http.body_timeout_ms,
          "How long its body may take, beside one second for each 16 KiB.");
ABSL_FLAG(int, http_idle_timeout_ms, GatewayConfig{}.http.idle_timeout_ms,
          "How long an HTTP connection may wait for its next request.");
ABSL_FLAG(std::string, metrics_address, GatewayConfig{}.metrics_address,
          "Where Prometheus scrapes /metrics, host:port; port 0 takes a free one; empty: nowhere.");
ABSL_FLAG(std::vector<std::string>, replicas, {},
          "Leaders (rank 0) of the replicas: host:port,host:port,… At least one.");
ABSL_FLAG(std::vector<std::string>, tokenizers, {},
          "Tokenizer services: host:port,host:port,… At least one.");
ABSL_FLAG(std::string, port_file, "",
          "File to write the ports in use to, as grpc=PORT, http=PORT and metrics=PORT lines.");
ABSL_FLAG(int, max_message_bytes, GatewayConfig{}.max_message_bytes,
          "Largest message taken from a client; a larger one ends its own stream.");
ABSL_FLAG(int, tokenizer_timeout_ms, GatewayConfig{}.tokenizer_timeout_ms,
          "How long a request waits for a tokenizer that can't be reached.");
ABSL_FLAG(int, drain_timeout_ms, GatewayConfig{}.drain_timeout_ms,
          "After SIGTERM: how long requests in flight may take to finish.");
ABSL_FLAG(int, lameduck_ms, GatewayConfig{}.lameduck_ms,
          "After SIGTERM: how long new requests are still taken (readiness is false at once).");
ABSL_FLAG(int, max_inflight_requests, GatewayConfig{}.admission.max_inflight_requests,
          "Requests of a model in flight at once; more wait.");
ABSL_FLAG(int, max_queued_requests, GatewayConfig{}.admission.max_queued_requests,
          "Requests of a model that may wait; more are refused.");
ABSL_FLAG(int, max_requests_per_client, GatewayConfig{}.admission.max_requests_per_client,
          "Requests of one client address waiting or in flight; 0 = no limit.");
ABSL_FLAG(int, queue_timeout_ms, GatewayConfig{}.admission.queue_timeout_ms,
          "How long a request may wait for its turn and for a ready replica.");
ABSL_FLAG(int, max_buffered_tokens, GatewayConfig{}.output.max_buffered_tokens,
          "Tokens kept for one request whose client reads slowly; beyond, the request ends.");
ABSL_FLAG(int, max_buffered_bytes, GatewayConfig{}.output.max_buffered_bytes,
          "Bytes kept for one request whose client reads slowly; beyond, the request ends.");
ABSL_FLAG(
    int, slow_reader_timeout_ms, GatewayConfig{}.output.slow_reader_timeout_ms,
    "How long an ended request's output may wait for a client that reads nothing, or gives no "
    "credit.");
ABSL_FLAG(bool, triton, caravan::TritonConfig{}.enabled,
          "Serve Triton Inference Server's API beside the native one.");
ABSL_FLAG(std::string, triton_model, "",
          "The served model behind Triton's ensemble and fastertransformer; empty: the only one.");
ABSL_FLAG(bool, triton_decoupled, caravan::TritonConfig{}.decoupled,
          "Whether ModelConfig says that these two answer more than once, and streams have partial "
          "responses; unary calls are served either way.");
ABSL_FLAG(int, triton_max_batch_size, caravan::TritonConfig{}.max_batch_size,
          "Rows of one Triton request.");
ABSL_FLAG(int, triton_stream_interval, caravan::TritonConfig{}.stream_interval,
          "Partial responses come where prompt and output together have a multiple of so many "
          "tokens (LLAMA_STREAM_CB_STEP of the succeeded system).");
ABSL_FLAG(bool, triton_stop_on_tokenizer_eos, caravan::TritonConfig{}.stop_on_tokenizer_eos,
          "The tokenizer's end-of-sequence token also ends requests that name another end_id.");
ABSL_FLAG(std::string, triton_model_control_mode, "none",
          "none: every model is loaded. explicit: clients load and unload them.");
ABSL_FLAG(std::vector<std::string>, triton_load_models, {},
          "With explicit control: models that are loaded at start, * = all.");
ABSL_FLAG(bool, triton_shared_memory, caravan::TritonConfig{}.shared_memory,
          "Clients may register system shared memory for inputs and outputs.");
ABSL_FLAG(std::string, triton_trace_file, "",
          "Where traces of requests are written once a client switches them on; empty: nowhere.");
ABSL_FLAG(int, triton_max_stream_requests, caravan::TritonConfig{}.max_stream_requests,
          "Unfinished requests of one Triton stream; more are not read before one has ended.");
ABSL_FLAG(
    bool, triton_latency_metrics, caravan::TritonConfig{}.latency_metrics,
    "Give the metrics nv_inference_*_summary_us and nv_inference_first_response_histogram_ms, "
    "which cost some microseconds a request.");
ABSL_FLAG(int, triton_tensor_parallel, caravan::TritonConfig{}.tensor_parallel,
          "Reported as tensor_para_size in ModelConfig of fastertransformer.");
ABSL_FLAG(std::string, triton_data_type, caravan::TritonConfig{}.data_type,
          "Reported as data_type in ModelConfig of fastertransformer: fp16, bf16 or fp32.");
ABSL_FLAG(std::string, triton_checkpoint_path, "",
          "Reported as model_checkpoint_path in ModelConfig of fastertransformer.");

namespace caravan {
namespace {

constexpr int kMostThreads = 1024;

absl::Status CheckAtLeast(const char* flag, int value, int least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, "; it must be at least ", least));
}

absl::Status CheckAddresses(const char* flag, const std::vector<std::string>& addresses) {
  if (addresses.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " is empty; give at least one host:port"));
  }
  for (const std::string& address : addresses) RETURN_IF_ERROR(CheckAddress(flag, address));
  return absl::OkStatus();
}

absl::Status CheckHttp(const HttpServerOptions& http) {
  RETURN_IF_ERROR(CheckIn("http_threads", http.num_threads, 1, kMostThreads));
  RETURN_IF_ERROR(CheckIn("http_large_body_threads", http.num_large_body_threads, 1, kMostThreads));
  RETURN_IF_ERROR(CheckAtLeast("http_max_connections", http.max_connections, 1));
  RETURN_IF_ERROR(CheckAtLeast("http_max_header_bytes", http.max_header_bytes, 1024));
  RETURN_IF_ERROR(CheckAtLeast("http_max_body_bytes", http.max_body_bytes, 1024));
  if (http.max_all_bodies_bytes < http.max_body_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http_max_all_bodies_bytes is ", http.max_all_bodies_bytes,
                     "; it must be at least --http_max_body_bytes, ", http.max_body_bytes));
  }
  RETURN_IF_ERROR(CheckAtLeast("http_header_timeout_ms", http.header_timeout_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("http_body_timeout_ms", http.body_timeout_ms, 1));
  return CheckAtLeast("http_idle_timeout_ms", http.idle_timeout_ms, 1);
}

HttpServerOptions LoadHttpOptions() {
  HttpServerOptions http;
  http.num_threads = absl::GetFlag(FLAGS_http_threads);
  http.num_large_body_threads = absl::GetFlag(FLAGS_http_large_body_threads);
  http.max_connections = absl::GetFlag(FLAGS_http_max_connections);
  http.max_header_bytes = absl::GetFlag(FLAGS_http_max_header_bytes);
  http.max_body_bytes = absl::GetFlag(FLAGS_http_max_body_bytes);
  http.max_all_bodies_bytes = absl::GetFlag(FLAGS_http_max_all_bodies_bytes);
  http.header_timeout_ms = absl::GetFlag(FLAGS_http_header_timeout_ms);
  http.body_timeout_ms = absl::GetFlag(FLAGS_http_body_timeout_ms);
  http.idle_timeout_ms = absl::GetFlag(FLAGS_http_idle_timeout_ms);
  return http;
}

absl::Status CheckTriton(const TritonConfig& triton) {
  RETURN_IF_ERROR(CheckAtLeast("triton_max_batch_size", triton.max_batch_size, 1));
  RETURN_IF_ERROR(CheckAtLeast("triton_stream_interval", triton.stream_interval, 1));
  RETURN_IF_ERROR(CheckAtLeast("triton_max_stream_requests", triton.max_stream_requests, 1));
  RETURN_IF_ERROR(CheckAtLeast("triton_tensor_parallel", triton.tensor_parallel, 1));
  RETURN_IF_ERROR(CheckOneOf("triton_data_type", triton.data_type, {"fp16", "bf16", "fp32"}));
  if (triton.trace_file.empty()) return absl::OkStatus();
  absl::Status writable = CheckWritableFile(triton.trace_file);
  if (writable.ok()) return writable;
  return absl::InvalidArgumentError(
      absl::StrCat("--triton_trace_file is '", triton.trace_file, "': ", writable.message()));
}

absl::Status Check(const GatewayConfig& config) {
  RETURN_IF_ERROR(CheckListenAddress("listen_address", config.listen_address));
  if (!config.http_address.empty()) {
    RETURN_IF_ERROR(CheckListenAddress("http_address", config.http_address));
  }
  RETURN_IF_ERROR(CheckHttp(config.http));
  if (!config.metrics_address.empty()) {
    RETURN_IF_ERROR(CheckListenAddress("metrics_address", config.metrics_address));
  }
  RETURN_IF_ERROR(CheckAddresses("replicas", config.replicas));
  RETURN_IF_ERROR(CheckAddresses("tokenizers", config.tokenizers));
  RETURN_IF_ERROR(CheckAtLeast("max_message_bytes", config.max_message_bytes, 1024));
  RETURN_IF_ERROR(CheckAtLeast("tokenizer_timeout_ms", config.tokenizer_timeout_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("drain_timeout_ms", config.drain_timeout_ms, 0));
  RETURN_IF_ERROR(CheckAtLeast("lameduck_ms", config.lameduck_ms, 0));
  const AdmissionLimits& admission = config.admission;
  RETURN_IF_ERROR(CheckAtLeast("max_inflight_requests", admission.max_inflight_requests, 1));
  RETURN_IF_ERROR(CheckAtLeast("max_queued_requests", admission.max_queued_requests, 0));
  RETURN_IF_ERROR(CheckAtLeast("max_requests_per_client", admission.max_requests_per_client, 0));
  RETURN_IF_ERROR(CheckAtLeast("queue_timeout_ms", admission.queue_timeout_ms, 1));
  RETURN_IF_ERROR(CheckAtLeast("max_buffered_tokens", config.output.max_buffered_tokens, 1));
  RETURN_IF_ERROR(CheckAtLeast("max_buffered_bytes", config.output.max_buffered_bytes, 1024));
  RETURN_IF_ERROR(CheckTriton(config.triton));
  return CheckAtLeast("slow_reader_timeout_ms", config.output.slow_reader_timeout_ms, 1);
}

absl::StatusOr<TritonConfig> LoadTritonConfig() {
  TritonConfig config;
  config.enabled = absl::GetFlag(FLAGS_triton);
  config.model = absl::GetFlag(FLAGS_triton_model);
  config.decoupled = absl::GetFlag(FLAGS_triton_decoupled);
  config.max_batch_size = absl::GetFlag(FLAGS_triton_max_batch_size);
  config.stream_interval = absl::GetFlag(FLAGS_triton_stream_interval);
  config.stop_on_tokenizer_eos = absl::GetFlag(FLAGS_triton_stop_on_tokenizer_eos);
  const std::string mode = absl::GetFlag(FLAGS_triton_model_control_mode);
  RETURN_IF_ERROR(CheckOneOf("triton_model_control_mode", mode, {"none", "explicit"}));
  config.explicit_model_control = mode == "explicit";
  config.load_models = absl::GetFlag(FLAGS_triton_load_models);
  config.shared_memory = absl::GetFlag(FLAGS_triton_shared_memory);
  config.trace_file = absl::GetFlag(FLAGS_triton_trace_file);
  config.max_stream_requests = absl::GetFlag(FLAGS_triton_max_stream_requests);
  config.latency_metrics = absl::GetFlag(FLAGS_triton_latency_metrics);
  config.tensor_parallel = absl::GetFlag(FLAGS_triton_tensor_parallel);
  config.data_type = absl::GetFlag(FLAGS_triton_data_type);
  config.checkpoint_path = absl::GetFlag(FLAGS_triton_checkpoint_path);
  return config;
}

}  // namespace

absl::StatusOr<GatewayConfig> LoadGatewayConfig() {
  GatewayConfig config;
  config.listen_address = absl::GetFlag(FLAGS_listen_address);
  config.http_address = absl::GetFlag(FLAGS_http_address);
  config.http = LoadHttpOptions();
  config.metrics_address = absl::GetFlag(FLAGS_metrics_address);
  config.replicas = absl::GetFlag(FLAGS_replicas);
  config.tokenizers = absl::GetFlag(FLAGS_tokenizers);
  config.port_file = absl::GetFlag(FLAGS_port_file);
  config.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  config.tokenizer_timeout_ms = absl::GetFlag(FLAGS_tokenizer_timeout_ms);
  config.drain_timeout_ms = absl::GetFlag(FLAGS_drain_timeout_ms);
  config.lameduck_ms = absl::GetFlag(FLAGS_lameduck_ms);
  config.admission.max_inflight_requests = absl::GetFlag(FLAGS_max_inflight_requests);
  config.admission.max_queued_requests = absl::GetFlag(FLAGS_max_queued_requests);
  config.admission.max_requests_per_client = absl::GetFlag(FLAGS_max_requests_per_client);
  config.admission.queue_timeout_ms = absl::GetFlag(FLAGS_queue_timeout_ms);
  config.output.max_buffered_tokens = absl::GetFlag(FLAGS_max_buffered_tokens);
  config.output.max_buffered_bytes = absl::GetFlag(FLAGS_max_buffered_bytes);
  config.output.slow_reader_timeout_ms = absl::GetFlag(FLAGS_slow_reader_timeout_ms);
  ASSIGN_OR_RETURN(config.triton, LoadTritonConfig());
  RETURN_IF_ERROR(Check(config));
  return config;
}

}  // namespace caravan
