// Batching changes nothing: requests that arrive at random and run together give, token for token
// and bit for bit of their log probabilities, what each gives alone with its prompt in one step.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <tuple>

#include "common/status.h"
#include "kernels/cpu_backend.h"
#include "tests/worker/model/model_folder_fixture.h"
#include "tests/worker/model/runner/thread_ranks_fixture.h"
#include "worker/engine/engine.h"

namespace caravan {
namespace {

constexpr int32_t kVocab = 70;
constexpr int kRequests = 64;

using SequenceKey = std::pair<RequestKey, int32_t>;  // and sample index
using Outputs = std::map<SequenceKey, std::vector<EmittedToken>>;

bool AreEqual(const std::vector<EmittedToken>& a, const std::vector<EmittedToken>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const EmittedToken& x, const EmittedToken& y) {
                      return x.token_id == y.token_id && x.logprob == y.logprob &&
                             x.top_logprobs == y.top_logprobs;
                    });
}

SamplingParams RandomSampling(std::mt19937& random) {
  const auto chance = [&](double p) { return std::bernoulli_distribution(p)(random); };
  const auto token = [&] { return static_cast<int32_t>(random() % kVocab); };
  SamplingParams sampling;
  sampling.temperature = chance(0.4) ? 0 : 0.5F + static_cast<float>(random() % 100) / 100;
  if (chance(0.3)) sampling.top_k = 1 + static_cast<int32_t>(random() % 20);
  if (chance(0.3)) sampling.top_p = 0.7F;
  if (chance(0.2)) sampling.min_p = 0.05F;
  if (chance(0.3)) sampling.repetition_penalty = 1.3F;
  if (chance(0.2)) sampling.presence_penalty = 0.4F;
  if (chance(0.2)) sampling.frequency_penalty = 0.2F;
  if (chance(0.2)) sampling.logit_bias.push_back({token(), 2.5F});
  if (chance(0.3)) sampling.bad_words = {{token()}, {token(), token()}};
  if (chance(0.5)) sampling.stop_token_ids = {token(), token()};
  sampling.min_tokens = chance(0.3) ? 4 : 0;
  sampling.max_tokens = 1 + static_cast<int32_t>(random() % 20);
  sampling.num_logprobs = static_cast<int32_t>(random() % 4) - 1;
  sampling.processed_logprobs = chance(0.5);
  sampling.seed = random();
  return sampling;
}

// Prompts of 1 to 60 tokens, many of which begin alike; some ask for several samples, some resume.
std::vector<Request> RandomRequests(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Request> requests;
  for (int i = 0; i < kRequests; ++i) {
    Request request;
    request.key = static_cast<RequestKey>(i);
    const auto family = random() % 6;
    const auto shared = family < 4 ? random() % 40 : 0;
    for (size_t t = 0; t < shared; ++t) {
      request.prompt.push_back(static_cast<int32_t>((family * 31 + t * 17) % kVocab));
    }
    const auto own = 1 + random() % 20;
    for (size_t t = 0; t < own; ++t) {
      request.prompt.push_back(static_cast<int32_t>(random() % kVocab));
    }
    request.sampling = RandomSampling(random);
    request.num_samples = i % 8 == 0 ? 3 : 1;
    if (i % 9 == 1 && own > 2 && request.sampling.max_tokens > 2) request.num_resumed = 2;
    request.priority = static_cast<int32_t>(random() % 3);
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Setting {
  std::string dtype = "float32";
  int world_size = 1;
  bool prefix_cache = true;
  int32_t chunk = 512;
  bool pipelined = true;
  bool tiny_pool = false;  // too small for what runs at once: sequences are preempted
  bool at_once = false;    // all requests are there before the first step
  SumOrder sum_order = SumOrder::kByRank;
  ModelTarget target = {};
};

class BatchingTest : public testing::Test {
 protected:
  BatchingTest() {
    SetCpuThreads(1);  // ranks are threads here
    WriteModel(TinyConfig());
  }

  void WriteModel(const nlohmann::json& config) {
    folder_.Write("config.json", config.dump());
    folder_.Write("model.safetensors", SafetensorsBytes(RandomTensors(config)));
  }

  std::unique_ptr<ThreadReplica> MakeReplica(const Setting& setting) {
    LoadOptions load;
    load.model_folder = folder_.path();
    load.dtype = setting.dtype;
    load.max_batch_tokens = 128;
    load.max_logit_rows = 32;
    load.load_threads = 1;
    LlamaRunnerOptions options;
    options.block_tokens = 4;
    options.num_blocks = setting.tiny_pool ? 24 : 1024;
    options.max_slots = 32;
    return ThreadReplica::Make(load, options, setting.world_size, setting.sum_order,
                               setting.target);
  }

  Outputs RunAlone(const Setting& setting, const std::vector<Request>& requests) {
    const auto replica = MakeReplica(setting);
    Outputs outputs;
    for (const Request& request : requests) {
      for (int32_t sample = 0; sample < request.num_samples; ++sample) {
        outputs[{request.key, sample}] = GenerateAlone(*replica, request, sample);
      }
    }
    return outputs;
  }

  // Requests arrive between steps, none to three at a time, or all before the first one.
  Outputs RunTogether(const Setting& setting, const std::vector<Request>& requests) {
    const auto replica = MakeReplica(setting);
    EngineOptions options;
    options.max_batch_tokens = 128;
    options.max_prefill_chunk_tokens = setting.chunk;
    options.enable_prefix_cache = setting.prefix_cache;
    options.pipelined = setting.pipelined;
    options.check_invariants = true;
    Outputs outputs;
    std::map<RequestKey, int32_t> resumed;
    const auto sink = [&](std::vector<TokenEvent> events) {
      for (TokenEvent& event : events) {
        std::vector<EmittedToken>& output = outputs[{event.key, event.sample_index}];
        EXPECT_EQ(event.first_position, resumed[event.key] + static_cast<int32_t>(output.size()));
        EXPECT_TRUE(event.status.ok()) << event.status;
        for (EmittedToken& token : event.tokens) output.push_back(std::move(token));
      }
    };
    Engine engine(options, replica.get(), sink);
    std::mt19937 random(7);
    bool busy = true;
    for (size_t next = 0; busy || next < requests.size();) {
      const size_t arriving = setting.at_once ? requests.size() : random() % 4;
      for (size_t n = arriving; n > 0 && next < requests.size(); --n, ++next) {
        resumed[requests[next].key] = requests[next].num_resumed;
        const absl::Status status = engine.Submit(requests[next]);
        EXPECT_TRUE(status.ok()) << status;
      }
      busy = engine.StepOnce();
    }
    stats_ = engine.Stats();
    return outputs;
  }

  // Whether the reference loop, unpipelined and without graphs, and the fast one give the same.
  void ExpectLoopsAgree(Setting setting, const std::vector<Request>& requests,
                        std::initializer_list<const char*> dtypes) {
    CARAVAN_SKIP_WITHOUT_MODEL_TARGET(setting.target);
    for (const char* dtype : dtypes) {
      setting.dtype = dtype;
      setting.target.graphs = false;
      setting.pipelined = false;
      const Outputs simple = RunTogether(setting, requests);
      setting.target.graphs = true;
      setting.pipelined = true;
      EXPECT_EQ(CountDifferences(simple, RunTogether(setting, requests)), 0) << dtype;
    }
  }

  // How many sequences differ between the two.
  static int CountDifferences(const Outputs& alone, const Outputs& together) {
    EXPECT_EQ(alone.size(), together.size());
    int different = 0;
    for (const auto& [key, expected] : alone) {
      const auto it = together.find(key);
      different += it == together.end() || !AreEqual(it->second, expected);
    }
    return different;
  }

  TempFolder folder_;
  EngineStats stats_;  // of the last RunTogether
};

class BatchingMatrix
    : public BatchingTest,
      public testing::WithParamInterface<std::tuple<std::string, int, bool, int32_t>> {};

TEST_P(BatchingMatrix, GivesTheTokensOfOneByOne) {
  Setting setting;
  std::tie(setting.dtype, setting.world_size, setting.prefix_cache, setting.chunk) = GetParam();
  const std::vector<Request> requests = RandomRequests(1);
  const Outputs alone = RunAlone(setting, requests);
  for (const bool pipelined : {true, false}) {
    for (const bool tiny_pool : {true, false}) {
      setting.pipelined = pipelined;
      setting.tiny_pool = tiny_pool;
      const Outputs together = RunTogether(setting, requests);
      EXPECT_EQ(CountDifferences(alone, together), 0)
          << "pipelined " << pipelined << " tiny_pool " << tiny_pool;
      EXPECT_EQ(stats_.preemptions > 0, tiny_pool);
      EXPECT_EQ(stats_.cached_tokens > 0, setting.prefix_cache);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BatchingMatrix,
                         testing::Combine(testing::Values("float32", "bfloat16"),
                                          testing::Values(1, 2), testing::Bool(),
                                          testing::Values(1, 7, 64, 512)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param), "_tp",
                                               std::get<1>(info.param),
                                               std::get<2>(info.param) ? "_cache" : "_no_cache",
                                               "_chunk", std::get<3>(info.param));
                         });

TEST_F(BatchingTest, HoldsForPromptsBeyondTheOriginalLengthOfDynamicRope) {
  nlohmann::json config = TinyConfig();
  config["max_position_embeddings"] = 32;  // about half of the prompts are longer
  config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 4.0}};
  WriteModel(config);
  const std::vector<Request> requests = RandomRequests(2);
  Setting setting;
  const Outputs alone = RunAlone(setting, requests);
  for (const int32_t chunk : {1, 7, 512}) {
    for (const bool tiny_pool : {true, false}) {
      setting.chunk = chunk;
      setting.tiny_pool = tiny_pool;
      EXPECT_EQ(CountDifferences(alone, RunTogether(setting, requests)), 0)
          << "chunk " << chunk << " tiny_pool " << tiny_pool;
      EXPECT_GT(stats_.cached_tokens, 0U);
    }
  }
}

// Slots that live on the device give what slots on the host give.
TEST_F(BatchingTest, HoldsWithTheSlotsOnTheDevice) {
  for (const bool dynamic_rope : {false, true}) {
    if (dynamic_rope) {
      nlohmann::json config = TinyConfig();
      config["max_position_embeddings"] = 32;
      config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 4.0}};
      WriteModel(config);
    }
    const std::vector<Request> requests = RandomRequests(4);
    const Outputs alone = RunAlone({}, requests);
    Setting setting;
    setting.target.slots_on_device = true;
    for (const bool pipelined : {true, false}) {
      for (const bool tiny_pool : {true, false}) {
        setting.pipelined = pipelined;
        setting.tiny_pool = tiny_pool;
        setting.chunk = tiny_pool ? 7 : 512;
        EXPECT_EQ(CountDifferences(alone, RunTogether(setting, requests)), 0)
            << "pipelined " << pipelined << " tiny_pool " << tiny_pool;
      }
    }
  }
}

// On CUDA where the stream is batch invariant: with graphs and without, pipelined and not.
class BatchingOnCuda
    : public BatchingTest,
      public testing::WithParamInterface<std::tuple<std::string, int, bool, int32_t>> {};

TEST_P(BatchingOnCuda, GivesTheTokensOfOneByOne) {
  Setting setting;
  setting.target = {.device = Device::kCuda, .batch_invariant = true};
  CARAVAN_SKIP_WITHOUT_MODEL_TARGET(setting.target);
  std::tie(setting.dtype, setting.world_size, setting.prefix_cache, setting.chunk) = GetParam();
  const std::vector<Request> requests = RandomRequests(1);
  const Outputs alone = RunAlone(setting, requests);
  for (const bool graphs : {true, false}) {
    if (graphs && setting.world_size > 1) continue;  // these ranks meet on the host
    for (const bool pipelined : {true, false}) {
      for (const bool tiny_pool : {true, false}) {
        setting.target.graphs = graphs;
        setting.pipelined = pipelined;
        setting.tiny_pool = tiny_pool;
        EXPECT_EQ(CountDifferences(alone, RunTogether(setting, requests)), 0)
            << "graphs " << graphs << " pipelined " << pipelined << " tiny_pool " << tiny_pool;
        EXPECT_EQ(stats_.preemptions > 0, tiny_pool);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BatchingOnCuda,
                         testing::Combine(testing::Values("float32", "float16", "bfloat16"),
                                          testing::Values(1, 2), testing::Bool(),
                                          testing::Values(7, 512)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param), "_tp",
                                               std::get<1>(info.param),
                                               std::get<2>(info.param) ? "_cache" : "_no_cache",
                                               "_chunk", std::get<3>(info.param));
                         });

// Without graphs a step runs the same kernels: the same bits, whether batch-invariant or not.
TEST_F(BatchingTest, GraphsGiveWhatStepsWithoutThemGiveOnCuda) {
  Setting setting;
  setting.target = {.device = Device::kCuda};
  CARAVAN_SKIP_WITHOUT_MODEL_TARGET(setting.target);
  const std::vector<Request> requests = RandomRequests(5);
  for (const char* dtype : {"float32", "float16", "bfloat16"}) {
    setting.dtype = dtype;
    for (const bool pipelined : {true, false}) {
      setting.pipelined = pipelined;
      setting.target.graphs = false;
      const Outputs eager = RunTogether(setting, requests);
      setting.target.graphs = true;
      EXPECT_EQ(CountDifferences(eager, RunTogether(setting, requests)), 0)
          << dtype << " pipelined " << pipelined;
    }
  }
}

// The loops give the same bits where their steps hold the same sequences: all are there at first
// and have slots, and no draw ends one.
TEST_F(BatchingTest, PipelinedGraphsGiveWhatTheSimpleLoopGivesOnCuda) {
  Setting setting;
  setting.target = {.device = Device::kCuda};
  setting.at_once = true;
  std::vector<Request> requests = RandomRequests(5);
  requests.resize(20);  // 26 sequences
  for (Request& request : requests) request.sampling.stop_token_ids.clear();
  ExpectLoopsAgree(setting, requests, {"float32", "float16", "bfloat16"});
}

// And where they don't, with batch-invariant operators.
TEST_F(BatchingTest, PipelinedGraphsGiveWhatTheSimpleLoopGivesInAnyBatchesOnCuda) {
  Setting setting;
  setting.target = {.device = Device::kCuda, .batch_invariant = true};
  ExpectLoopsAgree(setting, RandomRequests(5), {"float32", "bfloat16"});
}

TEST_F(BatchingTest, HoldsWhenOperatorsShareTheirRowsBetweenThreads) {
  const std::vector<Request> requests = RandomRequests(3);
  const Outputs alone = RunAlone({}, requests);
  SetCpuThreads(3);
  EXPECT_EQ(CountDifferences(alone, RunTogether({}, requests)), 0);
}

// The tests above must be able to fail: a sum over ranks that rounds otherwise when a step has a
// single row shows.
TEST_F(BatchingTest, NoticesASumThatDependsOnTheBatch) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    Setting setting;
    setting.dtype = dtype;
    setting.world_size = 2;
    setting.sum_order = SumOrder::kByRowCount;
    const std::vector<Request> requests = RandomRequests(1);
    EXPECT_GT(CountDifferences(RunAlone(setting, requests), RunTogether(setting, requests)), 0)
        << dtype;
  }
}

}  // namespace
}  // namespace caravan
