#include "gateway/generation/tokenizer_bounds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::EncodeRequest Texts(const std::vector<size_t>& sizes) {
  v1::EncodeRequest request;
  for (const size_t size : sizes) request.add_inputs()->set_text(std::string(size, 'a'));
  return request;
}

std::vector<std::vector<size_t>> SizesOf(const std::vector<v1::EncodeRequest>& parts) {
  std::vector<std::vector<size_t>> sizes;
  for (const v1::EncodeRequest& part : parts) {
    sizes.emplace_back();
    for (const v1::EncodeInput& input : part.inputs()) sizes.back().push_back(input.text().size());
  }
  return sizes;
}

TokenizerBounds Small() {
  TokenizerBounds bounds;
  bounds.max_text_bytes = 100;
  bounds.max_inputs = 3;
  bounds.max_decode_tokens = 10;
  bounds.max_message_bytes = 400;
  return bounds;
}

TEST(TokenizerBounds, WhatOneCallTakesStaysOneCall) {
  EXPECT_THAT(SizesOf(SplitEncode(Texts({1, 2, 3}), Small())), ElementsAre(ElementsAre(1, 2, 3)));
  EXPECT_THAT(SizesOf(SplitEncode(Texts({}), Small())), ElementsAre(ElementsAre()));
}

TEST(TokenizerBounds, CallsKeepToNumbersAndBytesInOrder) {
  EXPECT_THAT(SizesOf(SplitEncode(Texts({1, 2, 3, 4, 5, 6, 7}), Small())),
              ElementsAre(ElementsAre(1, 2, 3), ElementsAre(4, 5, 6), ElementsAre(7)));
  TokenizerBounds bounds = Small();
  bounds.max_inputs = 100;
  const auto parts = SplitEncode(Texts(std::vector<size_t>(50, 90)), bounds);
  EXPECT_GT(parts.size(), 12u);
  int inputs = 0;
  for (const v1::EncodeRequest& part : parts) {
    EXPECT_LE(part.ByteSizeLong(), bounds.max_message_bytes);
    inputs += part.inputs_size();
  }
  EXPECT_EQ(inputs, 50);
}

TEST(TokenizerBounds, CallsKeepToIdsToDecode) {
  v1::DecodeRequest request;
  for (int32_t length : {4, 6, 1, 9, 2}) {
    v1::DecodeInput* input = request.add_inputs();
    for (int32_t i = 0; i < length; ++i) input->add_token_ids(length);
  }
  std::vector<int> inputs;
  for (const v1::DecodeRequest& part : SplitDecode(std::move(request), Small())) {
    inputs.push_back(part.inputs_size());
  }
  EXPECT_THAT(inputs, ElementsAre(2, 2, 1));
}

TEST(TokenizerBounds, ATextIsRefusedInTheNameOfItsField) {
  EXPECT_TRUE(CheckText("QUERY of row 2", std::string(100, 'a'), Small()).ok());
  EXPECT_THAT(std::string(CheckText("QUERY of row 2", std::string(101, 'a'), Small()).message()),
              HasSubstr("QUERY of row 2 has 101 bytes of text; at most 100 are allowed"));
  EXPECT_THAT(std::string(CheckText("QUERY of row 2", "ab\xff", Small()).message()),
              HasSubstr("QUERY of row 2 is not UTF-8: byte 2"));
}

TEST(TokenizerBounds, AreWhatTheTokenizerSays) {
  v1::GetVocabularyResponse response;
  EXPECT_EQ(BoundsOf(response).max_text_bytes, TokenizerBounds().max_text_bytes);
  response.set_max_text_bytes(1 << 20);
  response.set_max_batch_inputs(7);
  response.set_max_decode_tokens(9);
  response.set_max_message_bytes(100000);
  const TokenizerBounds bounds = BoundsOf(response);
  EXPECT_LT(bounds.max_text_bytes, 100000u) << "a text that can't arrive is not allowed";
  EXPECT_EQ(bounds.max_inputs, 7u);
  EXPECT_EQ(bounds.max_decode_tokens, 9u);
  const TokenizerBounds tighter = TighterOf(bounds, Small());
  EXPECT_EQ(tighter.max_text_bytes, 100u);
  EXPECT_EQ(tighter.max_inputs, 3u);
  EXPECT_EQ(tighter.max_decode_tokens, 9u);
}

}  // namespace
}  // namespace caravan
