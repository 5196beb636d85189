// Logits and greedy sequences against Hugging Face transformers, in float32, of the small random
// models in tests/golden/models (made by tests/golden/make_golden.py).
//
// The tolerance is derived, not tried. Let u be the unit roundoff of the compared dtype and n the
// roundings within one layer (a sum of K products in float32 rounds K times); errors of random sign
// add up by their squares, so each layer's output gets a relative error of deviation u · √n. What
// such errors do to the logits is a property of the model's function, and is measured on it:
// relative errors of ±e in the embedding and in the output of every attention and feed-forward
// layer (in float32, e = 2^-12, far above its roundoff) move the logits of a position by a root
// mean square of D, in units of ‖w_v ⊙ g‖ (w_v the logit's row of the head, g the last norm's
// weight, after which the hidden state has mean square 1). The allowed error of logit v is then
//   6 · u · √n · D / e · ‖w_v ⊙ g‖:
// six deviations, beyond which lies one error of 5·10^8.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "common/status.h"
#include "kernels/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "tests/worker/model/thread_ranks_fixture.h"
#include "worker/model/checkpoint.h"
#include "worker/model/files/safetensors.h"
#include "worker/model/number_format.h"

namespace caravan {
namespace {

const char* const kModels = CARAVAN_SOURCE_DIR "/tests/golden/models";
constexpr int32_t kBlockTokens = 16;

// One prompt of a golden file.
struct Prompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;  // whose logits are known
  std::vector<float> logits;       // [positions, vocabulary]
  std::vector<int32_t> greedy;     // empty where there is none
};

template <typename T>
std::vector<T> Values(const SafetensorsFile& file, const std::string& name, const char* dtype) {
  for (const TensorInfo& tensor : file.tensors()) {
    if (tensor.name != name) continue;
    CARAVAN_CHECK(tensor.dtype_name == dtype, name, " is ", tensor.dtype_name);
    std::vector<T> values(static_cast<size_t>(tensor.bytes) / sizeof(T));
    std::memcpy(values.data(), tensor.data, static_cast<size_t>(tensor.bytes));
    return values;
  }
  return {};
}

std::vector<Prompt> ReadPrompts(const std::string& folder) {
  const auto file = SafetensorsFile::Open(folder + "/golden.safetensors");
  CARAVAN_CHECK(file.ok(), std::string(file.status().message()));
  std::vector<Prompt> prompts;
  for (int i = 0;; ++i) {
    const std::string suffix = absl::StrCat("_", i);
    Prompt prompt;
    prompt.ids = Values<int32_t>(**file, "input_ids" + suffix, "I32");
    if (prompt.ids.empty()) return prompts;
    prompt.positions = Values<int32_t>(**file, "positions" + suffix, "I32");
    prompt.logits = Values<float>(**file, "logits" + suffix, "F32");
    prompt.greedy = Values<int32_t>(**file, "greedy" + suffix, "I32");
    prompts.push_back(std::move(prompt));
  }
}

LoadOptions OptionsFor(const std::string& folder, const std::string& dtype) {
  LoadOptions options;
  options.model_folder = folder;
  options.dtype = dtype;
  options.max_batch_tokens = 512;
  options.max_logit_rows = 16;
  options.load_threads = 1;
  return options;
}

// The models of all ranks, run together on one sequence.
class Ranks {
 public:
  Ranks(const std::string& folder, const std::string& dtype, int world_size)
      : Ranks(folder, dtype, MakeThreadRanks(world_size)) {}

  Ranks(const std::string& folder, const std::string& dtype,
        std::vector<std::shared_ptr<Collectives>> groups)
      : groups_(std::move(groups)) {
    const auto world_size = static_cast<int>(groups_.size());
    for (int rank = 0; rank < world_size; ++rank) {
      LoadOptions options = OptionsFor(folder, dtype);
      options.shard = {rank, world_size};
      auto model = LoadLlama(options);
      CARAVAN_CHECK(model.ok(), std::string(model.status().message()));
      const KvMemoryOptions kv_options = {kBlockTokens, 32, 0, (*model)->dtype()};
      auto kv = KvMemory::Allocate((*model)->config(), (*model)->layout(), kv_options);
      CARAVAN_CHECK(kv.ok(), std::string(kv.status().message()));
      models_.push_back(*std::move(model));
      kv_.push_back(*std::move(kv));
    }
  }

  const LlamaModel& model() const { return *models_[0]; }

  // [positions, vocabulary] of one pass over the prompt.
  std::vector<float> Logits(const std::vector<int32_t>& ids,
                            const std::vector<int32_t>& positions) {
    std::vector<float> logits;
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < models_.size(); ++rank) {
      threads.emplace_back([this, rank, &ids, &positions, &logits] {
        Run(rank, ids, positions, rank == 0 ? &logits : nullptr);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return logits;
  }

 private:
  void Run(size_t rank, const std::vector<int32_t>& ids, const std::vector<int32_t>& positions,
           std::vector<float>* out) {
    LlamaModel& model = *models_[rank];
    const auto tokens = static_cast<int32_t>(ids.size());
    std::vector<int32_t> rope_rows;
    model.rope().BeginStep();
    for (int32_t p = 0; p < tokens; ++p) rope_rows.push_back(model.rope().RowFor(p, tokens));
    std::vector<int32_t> blocks;  // from the last one down: an order of its own
    for (int32_t b = 0; b * kBlockTokens < tokens; ++b) blocks.push_back(31 - b);
    const std::vector<int32_t> starts = {0, tokens};
    const std::vector<int32_t> lengths = {tokens};
    const PagedBatch paged = {starts, lengths, blocks.data(), static_cast<int64_t>(blocks.size())};
    const auto logits = model.Forward({ids, rope_rows, paged, positions}, kv_[rank], *groups_[rank],
                                      DeviceStream::Cpu());
    CARAVAN_CHECK(logits.ok(), std::string(logits.status().message()));
    for (int64_t r = 0; out != nullptr && r < logits->rows; ++r) {
      const auto* row = static_cast<const float*>(logits->row(r));
      out->insert(out->end(), row, row + model.config().vocab_size);
    }
  }

  std::vector<std::shared_ptr<Collectives>> groups_;
  std::vector<std::unique_ptr<LlamaModel>> models_;
  std::vector<KvMemory> kv_;
};

std::vector<float> ReadFloats(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& tensor = *checkpoint.tensors().at(name).tensor;
  const DType dtype = *tensor.dtype();
  std::vector<float> values(static_cast<size_t>(tensor.bytes / SizeOf(dtype)));
  ConvertElements(tensor.data, dtype, values.data(), DType::kFloat32,
                  static_cast<int64_t>(values.size()));
  return values;
}

// ‖w_v ⊙ g‖ for each v.
std::vector<double> LogitScales(const std::string& folder, const ModelConfig& config) {
  const auto checkpoint = Checkpoint::Open(folder);
  CARAVAN_CHECK(checkpoint.ok(), std::string(checkpoint.status().message()));
  const std::vector<float> head = ReadFloats(
      *checkpoint, config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  const std::vector<float> norm = ReadFloats(*checkpoint, "model.norm.weight");
  std::vector<double> scales;
  for (int32_t v = 0; v < config.vocab_size; ++v) {
    double sum = 0;
    for (size_t i = 0; i < norm.size(); ++i) {
      const double product = double{head[static_cast<size_t>(v) * norm.size() + i]} * norm[i];
      sum += product * product;
    }
    scales.push_back(std::sqrt(sum));
  }
  return scales;
}

// A single rank's sums, with a relative error of ±2^-12 in each.
class NoisySums final : public Collectives {
 public:
  static constexpr double kError = 0x1p-12;

  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::Status AllReduceSum(MatrixView x, DeviceStream) override {
    auto* values = static_cast<float*>(x.data);
    for (int64_t i = 0; i < x.rows * x.cols; ++i) {
      values[i] *= static_cast<float>(random_() % 2 == 0 ? 1 + kError : 1 - kError);
    }
    return absl::OkStatus();
  }
  absl::Status GatherColumns(ConstMatrixView, MatrixView, DeviceStream) override {
    return absl::UnimplementedError("one rank gathers nothing");
  }
  absl::Status Broadcast(void*, size_t, int) override { return absl::OkStatus(); }
  void Abort() override {}

 private:
  std::mt19937 random_{1};
};

// D / e of the comment above, for each of a prompt's positions.
std::vector<double> Gains(Ranks& exact, Ranks& noisy, const Prompt& prompt,
                          const std::vector<double>& scales) {
  constexpr int kDraws = 8;
  const size_t vocab = scales.size();
  const std::vector<float> right = exact.Logits(prompt.ids, prompt.positions);
  std::vector<double> squares(prompt.positions.size(), 0);
  for (int draw = 0; draw < kDraws; ++draw) {
    const std::vector<float> moved = noisy.Logits(prompt.ids, prompt.positions);
    for (size_t i = 0; i < moved.size(); ++i) {
      const double change = (double{moved[i]} - right[i]) / scales[i % vocab];
      squares[i / vocab] += change * change;
    }
  }
  for (double& square : squares) {
    square = std::sqrt(square / static_cast<double>(kDraws * vocab)) / NoisySums::kError;
  }
  return squares;
}

double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1p-24;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
  }
  return 0;
}

// n of the comment above.
double RoundingsPerLayer(const ModelConfig& config, DType dtype, size_t context) {
  // In the model's dtype: both norms' outputs, both residuals, qkv, attention, gate_up, activation,
  // and the four weights.
  constexpr int kStored = 12;
  if (dtype != DType::kFloat32) return kStored;  // float32's own are far smaller
  const int q = config.num_heads * config.head_size;
  const int sums = 2 * config.hidden_size + q + config.head_size + config.intermediate_size +
                   static_cast<int>(context);
  return 2 * (sums + kStored);  // on our side and on the other
}

struct GoldenCase {
  std::string model;
  std::string dtype;
  int world_size = 1;
};

std::vector<std::string> ModelNames() {
  std::vector<std::string> names;
  std::error_code error;  // without the folder there are no names, and the last test fails
  for (const auto& entry : std::filesystem::directory_iterator(kModels, error)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Every model in every dtype at every degree that divides it.
std::vector<GoldenCase> Cases(const std::vector<std::string>& dtypes) {
  std::vector<GoldenCase> cases;
  for (const std::string& name : ModelNames()) {
    const auto config = LoadModelConfig(absl::StrCat(kModels, "/", name));
    CARAVAN_CHECK(config.ok(), std::string(config.status().message()));
    for (const std::string& dtype : dtypes) {
      for (const int world_size : {1, 2, 4}) {
        if (!MakeShardLayout(*config, {0, world_size}).ok()) continue;
        cases.push_back({name, dtype, world_size});
      }
    }
  }
  return cases;
}

std::string NameOfCase(const testing::TestParamInfo<GoldenCase>& info) {
  return absl::StrCat(info.param.model, "_", info.param.dtype, "_tp", info.param.world_size);
}

class LlamaGolden : public testing::TestWithParam<GoldenCase> {
 protected:
  // Ranks of these tests are threads: more of them inside an operator would only wait.
  void SetUp() override { SetCpuThreads(1); }
  std::string folder() const { return absl::StrCat(kModels, "/", GetParam().model); }
};

TEST_P(LlamaGolden, GivesTheLogitsOfTransformers) {
  Ranks ranks(folder(), GetParam().dtype, GetParam().world_size);
  Ranks exact(folder(), "float32", 1);
  Ranks noisy(folder(), "float32", {std::make_shared<NoisySums>()});
  const ModelConfig& config = ranks.model().config();
  const std::vector<double> scales = LogitScales(folder(), config);
  for (const Prompt& prompt : ReadPrompts(folder())) {
    const std::vector<double> gains = Gains(exact, noisy, prompt, scales);
    const std::vector<float> logits = ranks.Logits(prompt.ids, prompt.positions);
    ASSERT_EQ(logits.size(), prompt.logits.size());
    const double roundings = RoundingsPerLayer(config, ranks.model().dtype(), prompt.ids.size());
    const double unit = 6 * UnitRoundoff(ranks.model().dtype()) * std::sqrt(roundings);
    double worst = 0;
    size_t where = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double tolerance = unit * gains[i / scales.size()] * scales[i % scales.size()];
      const double ratio = std::abs(double{logits[i]} - prompt.logits[i]) / tolerance;
      if (!(ratio <= worst)) {  // also where it is NaN
        worst = ratio;
        where = i;
      }
    }
    EXPECT_LE(worst, 1) << "times the tolerance: " << logits[where] << " for "
                        << prompt.logits[where] << ", logit " << where % scales.size()
                        << " at position " << prompt.positions[where / scales.size()]
                        << " of a prompt of " << prompt.ids.size();
  }
}

INSTANTIATE_TEST_SUITE_P(AllModels, LlamaGolden,
                         testing::ValuesIn(Cases({"float32", "float16", "bfloat16"})), NameOfCase);

class LlamaGreedy : public LlamaGolden {};

TEST_P(LlamaGreedy, GeneratesTheSequencesOfTransformers) {
  LlamaRunnerOptions options;
  options.num_blocks = 32;
  options.max_slots = 1;
  const auto replica =
      ThreadReplica::Make(OptionsFor(folder(), GetParam().dtype), options, GetParam().world_size);
  int compared = 0;
  for (const Prompt& prompt : ReadPrompts(folder())) {
    if (prompt.greedy.empty()) continue;
    Request request;
    request.prompt = prompt.ids;
    request.sampling.temperature = 0;
    request.sampling.max_tokens = static_cast<int32_t>(prompt.greedy.size());
    std::vector<int32_t> ids;
    for (const EmittedToken& token : GenerateAlone(*replica, request)) {
      ids.push_back(token.token_id);
    }
    EXPECT_EQ(ids, prompt.greedy) << "prompt of " << prompt.ids.size();
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

INSTANTIATE_TEST_SUITE_P(AllModels, LlamaGreedy, testing::ValuesIn(Cases({"float32"})), NameOfCase);

TEST(LlamaDemo, GeneratesTheStoriesOfTransformersInBothDtypes) {
  SetCpuThreads(1);
  std::ifstream file(CARAVAN_SOURCE_DIR "/tests/golden/demo.json");
  const nlohmann::json answers = nlohmann::json::parse(file)["answers"];
  ASSERT_FALSE(answers.empty());
  for (const char* dtype : {"float32", "bfloat16"}) {
    for (const int world_size : {1, 2, 4}) {
      LlamaRunnerOptions options;
      options.num_blocks = 32;
      options.max_slots = 1;
      const auto replica = ThreadReplica::Make(OptionsFor(CARAVAN_SOURCE_DIR "/models/demo", dtype),
                                               options, world_size);
      for (const nlohmann::json& answer : answers) {
        Request request;
        request.prompt = answer["prompt_ids"].get<std::vector<int32_t>>();
        request.sampling.temperature = 0;
        request.sampling.max_tokens = answer["max_tokens"].get<int32_t>();
        request.sampling.stop_token_ids = replica->rank(0).model().config().eos_token_ids;
        std::vector<int32_t> ids;
        for (const EmittedToken& token : GenerateAlone(*replica, request)) {
          ids.push_back(token.token_id);
        }
        EXPECT_EQ(ids, answer["greedy_ids"].get<std::vector<int32_t>>())
            << dtype << " tensor parallel " << world_size << ": " << answer["prompt"];
      }
    }
  }
}

TEST(LlamaGoldenFiles, CoverADozenModelsAndTensorParallelism) {
  EXPECT_GE(ModelNames().size(), 12U);
  std::map<int, int> by_degree;
  for (const GoldenCase& test : Cases({"float32"})) ++by_degree[test.world_size];
  EXPECT_GE(by_degree[1], 12);
  EXPECT_GE(by_degree[2], 12);
  EXPECT_GE(by_degree[4], 4);
}

}  // namespace
}  // namespace caravan
