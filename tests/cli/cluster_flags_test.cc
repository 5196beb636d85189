#include "cli/cluster_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ExitedWithCode;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ErrorOf(const std::string& gpus, int workers) {
  return std::string(ParseGpus(gpus, workers).status().message());
}

ClusterOptions Make(const ClusterFlags& flags) {
  return flags.MakeOrExit(Options("test", "", "Tests."));
}

TEST(ParseGpus, TakesOneForEachWorkerAndTheSameForSeveral) {
  const auto gpus = ParseGpus("0,0,1,1", 4);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_THAT(*gpus, ElementsAre(0, 0, 1, 1));
}

TEST(ParseGpus, NamesWhatIsNoGpu) {
  for (const char* wrong : {"0,x", "0,-1", "0,", "0,1.5", "0,1024"}) {
    EXPECT_THAT(ErrorOf(wrong, 2), AllOf(HasSubstr("--gpus"), HasSubstr("from 0 to 1023")));
  }
}

TEST(ParseGpus, WantsOneForEachWorker) {
  EXPECT_THAT(ErrorOf("0,1", 4), AllOf(HasSubstr("names 2 GPUs"), HasSubstr("4 workers")));
  EXPECT_THAT(ErrorOf("0,1,2", 2), HasSubstr("names 3 GPUs"));
}

TEST(ClusterFlags, GpusAreOnesOwnUnlessNamed) {
  ClusterFlags flags;
  flags.tensor_parallel = 2;
  EXPECT_THAT(Make(flags).gpus, IsEmpty());
  flags.gpus = "2,3";
  EXPECT_THAT(Make(flags).gpus, ElementsAre(2, 3));
}

// The first worker would take all memory, and the others would not start.
TEST(ClusterFlagsDeathTest, WorkersOnOneGpuNeedToBeToldTheirMemory) {
  ClusterFlags flags;
  flags.tensor_parallel = 2;
  flags.gpus = "0,0";
  EXPECT_EXIT(Make(flags), ExitedWithCode(2), "--kv_cache_bytes");
  flags.kv_cache_bytes = "1000000";
  EXPECT_THAT(Make(flags).gpus, ElementsAre(0, 0));
  flags.kv_cache_bytes.clear();
  flags.worker_flags = "--kv_cache_bytes=1000000";
  EXPECT_THAT(Make(flags).gpus, ElementsAre(0, 0));
}

TEST(ClusterFlagsDeathTest, GpusAreOfNoUseOnTheCpu) {
  ClusterFlags flags;
  flags.gpus = "0";
  flags.device = "cpu";
  EXPECT_EXIT(Make(flags), ExitedWithCode(2), "--device=cpu");
}

// `up` waited for ever for ranks that nobody had started, or went on without a word.
TEST(ClusterFlagsDeathTest, FlagsThatProcessesAreGivenAnywayAreRefused) {
  ClusterFlags worker;
  worker.worker_flags = "--dtype=float32 --tensor_parallel 2";
  EXPECT_EXIT(Make(worker), ExitedWithCode(2),
              "--worker_flags has --tensor_parallel 2, which .* use --tensor_parallel");
  worker.worker_flags = "-rank=1";
  EXPECT_EXIT(Make(worker), ExitedWithCode(2), "--worker_flags has -rank=1, .* leave it out");
  worker.worker_flags = "--gpu_memory_fraction=0.5 --model=/elsewhere";
  EXPECT_EQ(Make(worker).worker_flags.size(), 2);
  ClusterFlags gateway;
  gateway.gateway_flags = "--http_address=0.0.0.0:8000";
  EXPECT_EXIT(Make(gateway), ExitedWithCode(2), "--gateway_flags has .* use --http_port");
  ClusterFlags tokenizer;
  tokenizer.tokenizer_flags = "--model=/elsewhere";
  EXPECT_EXIT(Make(tokenizer), ExitedWithCode(2), "--tokenizer_flags has .* use --tokenizer");
}

std::vector<std::string> NotesOn(const std::string& flags) {
  return NotesOfOverrides(
      "gateway_flags", flags,
      {"--triton_decoupled=true", "--triton_max_batch_size=8", "--model=/m/7b"});
}

// Flags were compared as texts, and a note told of an override that was none.
TEST(NotesOfOverrides, SaysNothingWhereTheFlagMeansTheSame) {
  for (const char* same :
       {"", "--other=1", "--triton_decoupled", "--triton_decoupled=1", "-triton_decoupled=yes",
        "--triton_decoupled=False --triton_decoupled=T", "--triton_max_batch_size 8",
        "--triton_max_batch_size=08", "--model=/m/7b/", "--triton_decoupled --model /m/7b//"}) {
    EXPECT_THAT(NotesOn(same), IsEmpty()) << same;
  }
}

TEST(NotesOfOverrides, NamesTheFlagThatCounts) {
  EXPECT_THAT(NotesOn("--triton_decoupled --notriton_decoupled"),
              ElementsAre("--notriton_decoupled of --gateway_flags is used, in place of "
                          "--triton_decoupled=true"));
  EXPECT_THAT(NotesOn("--triton_max_batch_size 4 --model=/m/13b -triton_decoupled=0"),
              ElementsAre(HasSubstr("-triton_decoupled=0 of --gateway_flags"),
                          HasSubstr("--triton_max_batch_size 4 of --gateway_flags"),
                          HasSubstr("--model=/m/13b of --gateway_flags")));
}

// `up` waited for ever for a model that nobody was to load.
TEST(ClusterFlagsDeathTest, ModelControlMayComeInTheGatewaysFlags) {
  ClusterFlags flags;
  EXPECT_TRUE(Make(flags).loaded_at_start);
  flags.gateway_flags = "--triton_model_control_mode=explicit";
  EXPECT_FALSE(Make(flags).loaded_at_start);
  EXPECT_THAT(Make(flags).worker_flags, ElementsAre("--load_at_start=false"));
  flags.gateway_flags += " --triton_load_models=*";
  EXPECT_TRUE(Make(flags).loaded_at_start);
  flags.gateway_flags += " --triton_model_control_mode none";
  EXPECT_EXIT(Make(flags), ExitedWithCode(2), "takes --triton_model_control_mode=explicit");
  flags.gateway_flags = "--triton_model_control_mode=poll";
  EXPECT_EXIT(Make(flags), ExitedWithCode(2), "is 'poll'; it must be none or explicit");
}

}  // namespace
}  // namespace caravan
