#include "tokenizer_service/decode_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tokenizer_service/tokenizer_fixture.h"

namespace caravan {
namespace {

using testing::HasSubstr;

class DecodeSequencesTest : public testing::Test {
 protected:
  static TokenizerLimits Limits() {
    TokenizerLimits limits;
    limits.max_session_sequences = 2;
    limits.max_decode_tokens = 8;
    return limits;
  }
  // The answer; code -1 stands for none.
  v1::DecodeSessionResponse Send(const v1::DecodeSessionRequest& request) {
    v1::DecodeSessionResponse response;
    if (!sequences_.Handle(request, response)) response.set_code(-1);
    return response;
  }
  v1::DecodeSessionResponse Open(uint64_t sequence, const std::vector<int32_t>& context = {}) {
    v1::DecodeSessionRequest request;
    request.mutable_open()->set_sequence(sequence);
    request.mutable_open()->mutable_context_token_ids()->Add(context.begin(), context.end());
    return Send(request);
  }
  v1::DecodeSessionResponse Append(uint64_t sequence, const std::vector<int32_t>& ids) {
    v1::DecodeSessionRequest request;
    request.mutable_append()->set_sequence(sequence);
    request.mutable_append()->mutable_token_ids()->Add(ids.begin(), ids.end());
    return Send(request);
  }
  v1::DecodeSessionResponse Close(uint64_t sequence) {
    v1::DecodeSessionRequest request;
    request.mutable_close()->set_sequence(sequence);
    return Send(request);
  }
  int CodeOf(absl::StatusCode code) { return static_cast<int>(code); }

  std::unique_ptr<Tokenizer> tokenizer_ = LoadGolden("new");
  std::vector<int32_t> the_ = *tokenizer_->Encode("the", {});
  DecodeSequences sequences_{&tokenizer_->vocabulary(), Limits()};
};

TEST_F(DecodeSequencesTest, DecodesManySequencesSideBySide) {
  EXPECT_EQ(Open(7).code(), -1);
  EXPECT_EQ(Open(8, the_).code(), -1);
  v1::DecodeSessionResponse first = Append(7, the_);
  EXPECT_EQ(first.sequence(), 7);
  EXPECT_EQ(first.text(), "the");
  EXPECT_EQ(first.num_tokens(), 1);
  EXPECT_FALSE(first.closed());
  EXPECT_EQ(Append(8, the_).text(), " the");
  EXPECT_EQ(Append(7, {}).num_tokens(), 0);
  v1::DecodeSessionResponse closed = Close(7);
  EXPECT_TRUE(closed.closed());
  EXPECT_EQ(closed.text(), "");
  EXPECT_EQ(sequences_.size(), 1);
}

TEST_F(DecodeSequencesTest, AnswersABatchMessageByMessage) {
  v1::DecodeSessionRequest request;
  const auto add = [&] { return request.mutable_batch()->add_messages(); };
  add()->mutable_open()->set_sequence(7);
  v1::DecodeAppend* append = add()->mutable_append();
  append->set_sequence(7);
  append->mutable_token_ids()->Add(the_.begin(), the_.end());
  add()->mutable_append()->set_sequence(99);  // not open: refused, and the rest goes on
  add()->mutable_batch();
  add()->mutable_close()->set_sequence(7);
  const v1::DecodeSessionResponse response = Send(request);
  ASSERT_EQ(response.batch_size(), 4);  // an open has no answer
  EXPECT_EQ(response.batch(0).text(), "the");
  EXPECT_EQ(response.batch(1).code(), CodeOf(absl::StatusCode::kNotFound));
  EXPECT_EQ(response.batch(2).code(), CodeOf(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(response.batch(3).closed());
  v1::DecodeSessionRequest open;
  open.mutable_batch()->add_messages()->mutable_open()->set_sequence(1);
  EXPECT_EQ(Send(open).code(), -1);
}

TEST_F(DecodeSequencesTest, CloseFlushesWhatNeverBecameACharacter) {
  Open(1);
  EXPECT_EQ(Append(1, {3 + 0xF0, 3 + 0x9F}).text(), "");
  EXPECT_EQ(Close(1).text(), "\uFFFD");
}

TEST_F(DecodeSequencesTest, RefusedMessagesChangeNothing) {
  Open(1, the_);
  v1::DecodeSessionResponse again = Open(1);
  EXPECT_EQ(again.code(), CodeOf(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(again.sequence(), 1);
  EXPECT_EQ(Append(2, the_).code(), CodeOf(absl::StatusCode::kNotFound));
  EXPECT_EQ(Close(2).code(), CodeOf(absl::StatusCode::kNotFound));
  v1::DecodeSessionResponse out_of_range = Append(1, {the_[0], 1600});
  EXPECT_EQ(out_of_range.code(), CodeOf(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(out_of_range.text(), "");
  EXPECT_THAT(out_of_range.message(), HasSubstr("token_ids[1] is 1600"));
  EXPECT_EQ(Open(3, {-1}).code(), CodeOf(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(Send({}).code(), CodeOf(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(Append(1, the_).text(), " the");
}

TEST_F(DecodeSequencesTest, LimitsAreNamed) {
  Open(1);
  Open(2);
  EXPECT_EQ(Open(3).code(), CodeOf(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(Append(1, std::vector<int32_t>(9, 5)).message(),
              HasSubstr("9 token ids, the limit is 8"));
  Close(1);
  EXPECT_EQ(Open(3).code(), -1);
}

}  // namespace
}  // namespace caravan
