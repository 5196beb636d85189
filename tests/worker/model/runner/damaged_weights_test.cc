// A model of which a part is no numbers: the requests that meet it fail, the others don't notice.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>

#include "kernels/cpu_backend.h"
#include "tests/worker/model/model_folder_fixture.h"
#include "tests/worker/model/runner/thread_ranks_fixture.h"
#include "worker/engine/engine.h"

namespace caravan {
namespace {

constexpr int32_t kDamagedToken = 66;  // its embedding is NaN
constexpr int32_t kPromptTokens = 6;

struct Answer {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kNone;
  absl::Status status;
};

std::vector<ModelTarget> AllTargets() {
  std::vector<ModelTarget> targets = CudaModelTargets();
  targets.push_back({});
  targets.push_back({.slots_on_device = true});
  return targets;
}

class DamagedWeightsTest : public testing::TestWithParam<ModelTarget> {
 protected:
  void SetUp() override {
    CARAVAN_SKIP_WITHOUT_MODEL_TARGET(GetParam());
    SetCpuThreads(1);  // ranks are threads here
    const nlohmann::json config = TinyConfig();
    std::vector<TensorToWrite> tensors = RandomTensors(config);
    for (TensorToWrite& tensor : tensors) {
      if (tensor.name != "model.embed_tokens.weight") continue;
      const auto row = static_cast<size_t>(tensor.shape[1]) * sizeof(float);
      std::memset(tensor.data.data() + kDamagedToken * row, 0xff, row);
    }
    folder_.Write("config.json", config.dump());
    folder_.Write("model.safetensors", SafetensorsBytes(tensors));
  }

  // Request i has a prompt of its own, with the damaged token in it where `damaged` says so.
  static Request MakeRequest(int32_t i, bool damaged, int32_t beam_width) {
    Request request;
    request.key = static_cast<RequestKey>(i);
    for (int32_t t = 0; t < kPromptTokens; ++t) request.prompt.push_back((i * 11 + t * 3) % 60);
    if (damaged) request.prompt[2] = kDamagedToken;
    request.sampling.max_tokens = 8;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.temperature = i % 2 == 0 ? 0 : 1;
    if (i % 3 == 0) request.sampling.top_k = 5;
    if (i % 3 == 1) request.sampling.top_p = 0.8F;
    // A draw must not lead to it.
    request.sampling.bad_words = {{kDamagedToken}};
    request.beams.width = beam_width;
    return request;
  }

  std::map<RequestKey, Answer> Run(const std::vector<Request>& requests, bool pipelined) {
    LoadOptions load;
    load.model_folder = folder_.path();
    load.dtype = "float16";
    load.max_batch_tokens = 128;
    load.max_logit_rows = 32;
    load.load_threads = 1;
    LlamaRunnerOptions options;
    options.block_tokens = 4;
    options.num_blocks = 256;
    options.max_slots = 32;
    // Ranks that meet on the host can't where a graph, or each of them, draws.
    const int world_size = GetParam().graphs || GetParam().slots_on_device ? 1 : 2;
    const auto replica =
        ThreadReplica::Make(load, options, world_size, SumOrder::kByRank, GetParam());
    EngineOptions engine_options;
    engine_options.max_batch_tokens = 128;
    engine_options.pipelined = pipelined;
    engine_options.check_invariants = true;
    std::map<RequestKey, Answer> answers;
    Engine engine(engine_options, replica.get(), [&](const std::vector<TokenEvent>& events) {
      for (const TokenEvent& event : events) {
        Answer& answer = answers[event.key];
        for (const EmittedToken& token : event.tokens) answer.tokens.push_back(token.token_id);
        answer.finish = event.finish;
        answer.status = event.status;
      }
    });
    for (const Request& request : requests) {
      const absl::Status status = engine.Submit(request);
      EXPECT_TRUE(status.ok()) << status;
    }
    while (engine.StepOnce()) {
    }
    EXPECT_TRUE(engine.status().ok()) << engine.status();
    EXPECT_EQ(engine.Stats().used_blocks, 0);
    return answers;
  }

  TempFolder folder_;
};

TEST_P(DamagedWeightsTest, OnlyTheRequestsThatMeetItFail) {
  std::vector<Request> sound;
  std::vector<Request> all;
  for (int32_t i = 0; i < 12; ++i) {
    const bool damaged = i % 3 == 2;
    all.push_back(MakeRequest(i, damaged, i < 8 ? 1 : 3));
    if (!damaged) sound.push_back(all.back());
  }
  for (const bool pipelined : {true, false}) {
    SCOPED_TRACE(pipelined ? "pipelined" : "simple");
    auto expected = Run(sound, pipelined);
    auto answers = Run(all, pipelined);
    ASSERT_EQ(answers.size(), all.size());
    for (const Request& request : all) {
      const Answer& answer = answers[request.key];
      SCOPED_TRACE(request.key);
      if (request.prompt[2] == kDamagedToken) {
        EXPECT_EQ(answer.finish, FinishReason::kError);
        EXPECT_TRUE(absl::IsInternal(answer.status)) << answer.status;
        EXPECT_NE(answer.status.message().find("at token 1 (position 6)"), std::string::npos);
        EXPECT_NE(answer.status.message().find("float16"), std::string::npos) << answer.status;
        EXPECT_TRUE(answer.tokens.empty());
        continue;
      }
      EXPECT_TRUE(answer.status.ok()) << answer.status;
      EXPECT_FALSE(answer.tokens.empty());
      // What else runs with it may change rounding on CUDA, but not on the CPU.
      if (GetParam().device == Device::kCpu || GetParam().batch_invariant) {
        EXPECT_EQ(answer.tokens, expected[request.key].tokens);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, DamagedWeightsTest, testing::ValuesIn(AllTargets()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace caravan
