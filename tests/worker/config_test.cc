#include "worker/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace caravan {
namespace {

using ::testing::HasSubstr;

WorkerConfig Valid() {
  WorkerConfig config;
  config.model = "/models/llama";
  return config;
}

TEST(WorkerConfig, TheDefaultsWithAModelAreValid) {
  EXPECT_TRUE(CheckWorkerConfig(Valid()).ok()) << CheckWorkerConfig(Valid());
}

TEST(WorkerConfig, EachBrokenRuleIsASentenceThatNamesTheFlag) {
  const auto expect_refused = [](const char* words, auto change) {
    WorkerConfig config = Valid();
    change(config);
    const absl::Status status = CheckWorkerConfig(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  };
  expect_refused("--model is empty", [](WorkerConfig& c) { c.model = ""; });
  expect_refused("--device", [](WorkerConfig& c) { c.device = "tpu"; });
  expect_refused("--dtype", [](WorkerConfig& c) { c.dtype = "int8"; });
  expect_refused("--gpu is -2", [](WorkerConfig& c) { c.gpu = -2; });
  expect_refused("--gpu_memory_fraction", [](WorkerConfig& c) { c.gpu_memory_fraction = 0; });
  expect_refused("--gpu_memory_fraction", [](WorkerConfig& c) { c.gpu_memory_fraction = 1.01; });
  expect_refused("--gpu_memory_wait_ms", [](WorkerConfig& c) { c.gpu_memory_wait_ms = -1; });
  expect_refused("--load_format", [](WorkerConfig& c) { c.load_format = "gguf"; });
  expect_refused("--max_context_tokens", [](WorkerConfig& c) { c.max_context_tokens = -1; });
  expect_refused("--tensor_parallel", [](WorkerConfig& c) { c.tensor_parallel = 0; });
  expect_refused("--rank", [](WorkerConfig& c) { c.rank = 1; });
  expect_refused("--leader_address", [](WorkerConfig& c) { c.leader_address = "host:1"; });
  expect_refused("--listen_address", [](WorkerConfig& c) { c.listen_address = "host"; });
  expect_refused("--metrics_address", [](WorkerConfig& c) { c.metrics_address = "host:x"; });
  expect_refused("--collectives", [](WorkerConfig& c) { c.collectives = "mpi"; });
  expect_refused("--rank_timeout_ms", [](WorkerConfig& c) { c.rank_timeout_ms = 5; });
  expect_refused("--wedge_timeout_ms", [](WorkerConfig& c) { c.wedge_timeout_ms = 999; });
  expect_refused("--block_tokens", [](WorkerConfig& c) { c.block_tokens = 0; });
  expect_refused("--kv_cache_bytes", [](WorkerConfig& c) { c.kv_cache_bytes = -1; });
  expect_refused("--max_batch_tokens", [](WorkerConfig& c) { c.max_batch_tokens = 0; });
  expect_refused("--max_prefill_chunk_tokens",
                 [](WorkerConfig& c) { c.max_prefill_chunk_tokens = 0; });
  expect_refused("--max_running_sequences", [](WorkerConfig& c) { c.max_running_sequences = 0; });
  expect_refused("--max_waiting_requests", [](WorkerConfig& c) { c.max_waiting_requests = -1; });
  expect_refused("--step_time_target_ms", [](WorkerConfig& c) { c.step_time_target_ms = -1; });
  expect_refused("--pipeline_depth", [](WorkerConfig& c) { c.pipeline_depth = 0; });
  expect_refused("--cpu_threads", [](WorkerConfig& c) { c.cpu_threads = -1; });
  expect_refused("--max_message_bytes", [](WorkerConfig& c) { c.max_message_bytes = 0; });
  expect_refused("--max_session_tokens", [](WorkerConfig& c) { c.max_session_tokens = 0; });
  expect_refused("--lameduck_ms", [](WorkerConfig& c) { c.lameduck_ms = -1; });
  expect_refused("--drain_timeout_ms", [](WorkerConfig& c) { c.drain_timeout_ms = -1; });
}

TEST(WorkerConfig, DefaultKvMemoryIsSharedByTheRanksAndWithinItsBounds) {
  EXPECT_GE(DefaultKvCacheBytes(1), 16 << 20);
  EXPECT_LE(DefaultKvCacheBytes(1), int64_t{4} << 30);
  EXPECT_LE(DefaultKvCacheBytes(64), DefaultKvCacheBytes(1));
}

}  // namespace
}  // namespace caravan
