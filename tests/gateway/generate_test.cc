// Generation.Generate end to end: a real gateway between fake worker and fake tokenizer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_cluster.h"

namespace caravan {
namespace {

using Finish = v1::WorkerTokenEvent;

TEST(Generate, StreamsTheTextOfTheWorkersTokens) {
  Cluster cluster;
  auto call = cluster.Generate(TextRequest("hi"), "my-request");
  const v1::WorkerSubmit submit = cluster.worker().AwaitSubmit();
  EXPECT_EQ(submit.request_id(), "my-request");
  EXPECT_EQ(cluster.tokenizer().last_request_id(), "my-request");
  EXPECT_THAT(
      std::vector<int32_t>(submit.prompt_token_ids().begin(), submit.prompt_token_ids().end()),
      testing::ElementsAre(1, 3 + 'h', 3 + 'i'));
  cluster.worker().Emit(submit.key(), {WordId(0)});
  ASSERT_TRUE(call->Read());  // started
  ASSERT_TRUE(call->Read());
  EXPECT_EQ(call->seen().text, " the");
  cluster.worker().Emit(submit.key(), {WordId(1)});
  cluster.worker().Emit(submit.key(), {2}, Finish::STOP_TOKEN);
  const Seen& seen = call->ReadAll();
  EXPECT_TRUE(seen.status.ok()) << seen.status.error_message();
  EXPECT_EQ(seen.started.request_id(), "my-request");
  EXPECT_EQ(seen.started.model(), "tiny");
  EXPECT_EQ(seen.started.prompt_tokens(), 3u);
  EXPECT_EQ(seen.started.seed(), submit.sampling().seed());
  EXPECT_EQ(seen.text, " the cat");
  EXPECT_THAT(seen.ids, testing::ElementsAre(WordId(0), WordId(1), 2));
  EXPECT_EQ(seen.finished.reason(), v1::Finished::STOP_TOKEN);
  EXPECT_EQ(seen.finished.stop_token_id(), 2);
  EXPECT_EQ(seen.finished.generated_tokens(), 3u);
}

}  // namespace
}  // namespace caravan
