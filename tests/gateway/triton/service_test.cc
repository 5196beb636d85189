// The Triton door of a real gateway, between fakes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "tests/gateway/triton/triton_client.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(TritonTest, PartialResponsesComeAtMultiplesOfFiveAndTheFinalOneAddsAToken) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc"}, {11}));  // four tokens with the first
  const v1::WorkerSubmit submit = cluster_.worker().AwaitSubmit();
  EXPECT_EQ(submit.prompt_token_ids_size(), 4);
  EXPECT_EQ(submit.sampling().temperature(), 0);
  EXPECT_EQ(submit.sampling().seed(), 0u);
  cluster_.worker().Emit(submit.key(), {WordId(0)});
  ModelStreamInferResponse response = stream.Read();
  EXPECT_FALSE(IsFinal(response));
  EXPECT_EQ(response.infer_response().id(), "r");
  EXPECT_THAT(TextsOf(response.infer_response()), ElementsAre("<s>abc the"));
  cluster_.worker().Emit(submit.key(), std::vector<int32_t>(9, WordId(1)));
  response = stream.Read();
  EXPECT_EQ(ElementAt<uint32_t>(RawOf(response.infer_response(), "sequence_length"), 0), 10u);
  // 15 is the last step there can be: it belongs to the final response.
  cluster_.worker().Emit(submit.key(), {WordId(2)}, v1::WorkerTokenEvent::LENGTH);
  response = stream.Read();
  EXPECT_TRUE(IsFinal(response));
  EXPECT_EQ(ElementAt<uint32_t>(RawOf(response.infer_response(), "sequence_length"), 0), 15u);
  stream.stream->WritesDone();
  EXPECT_FALSE(stream.stream->Read(&response));
  EXPECT_TRUE(stream.stream->Finish().ok());
}

// Several responses before the first was written: gRPC kept them, and the call's metadata, until
// something else was written to the connection (a ping, after ten seconds).
TEST_F(TritonTest, ABurstBeforeTheFirstResponseArrivesAtOnce) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc"}, {11}));
  const v1::WorkerSubmit submit = cluster_.worker().AwaitSubmit();
  const auto start = std::chrono::steady_clock::now();
  cluster_.worker().Emit(submit.key(), std::vector<int32_t>(6, WordId(1)));
  const ModelStreamInferResponse first = stream.Read();
  EXPECT_EQ(ElementAt<uint32_t>(RawOf(first.infer_response(), "sequence_length"), 0), 5u);
  const ModelStreamInferResponse second = stream.Read();
  EXPECT_EQ(ElementAt<uint32_t>(RawOf(second.infer_response(), "sequence_length"), 0), 10u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(8));
}

TEST_F(TritonTest, PartialTextsHaveWholeCharactersOnly) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc"}, {11}));
  const uint64_t key = cluster_.worker().AwaitSubmit().key();
  cluster_.worker().Emit(key, ByteIds("\xc3"));
  EXPECT_THAT(TextsOf(stream.Read().infer_response()), ElementsAre("<s>abc"));
  cluster_.worker().Emit(key, ByteIds("\xa9tes\xe2"));
  EXPECT_THAT(TextsOf(stream.Read().infer_response()), ElementsAre("<s>abc\xc3\xa9tes"));
  cluster_.worker().Emit(key, ByteIds("\x82"), v1::WorkerTokenEvent::LENGTH);
  EXPECT_THAT(TextsOf(stream.Read().infer_response()),
              ElementsAre("<s>abc\xc3\xa9tes\xef\xbf\xbd"));  // it never became a character
}

TEST_F(TritonTest, RowsAreShownAfterTheSameNumberOfSteps) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc", "xyz"}, {20, 3}));
  const v1::WorkerSubmit first = cluster_.worker().AwaitSubmit();
  const v1::WorkerSubmit second = cluster_.worker().AwaitSubmit();
  const bool in_order = first.sampling().max_tokens() == 20;
  const uint64_t long_row = in_order ? first.key() : second.key();
  const uint64_t short_row = in_order ? second.key() : first.key();
  cluster_.worker().Emit(long_row, std::vector<int32_t>(7, WordId(1)));
  cluster_.worker().Emit(short_row, {WordId(0)});
  ModelStreamInferResponse response = stream.Read();
  EXPECT_THAT(TextsOf(response.infer_response()), ElementsAre("<s>abc cat", "<s>xyz the"));
  // The short row ends: the long one is shown as far as it is.
  cluster_.worker().Emit(short_row, {WordId(0), WordId(0)}, v1::WorkerTokenEvent::LENGTH);
  response = stream.Read();
  EXPECT_THAT(TextsOf(response.infer_response()),
              ElementsAre("<s>abc cat cat cat cat cat cat", "<s>xyz the the the"));
  cluster_.worker().Emit(long_row, {2}, v1::WorkerTokenEvent::STOP_TOKEN);
  response = stream.Read();
  EXPECT_TRUE(IsFinal(response));
  EXPECT_THAT(TextsOf(response.infer_response())[0], HasSubstr("</s>"));
}

ModelInferRequest BeamsRequest() {
  ModelInferRequest request = EnsembleRequest({"abc"}, {20});
  AddInput("beam_width", "UINT32", 1, Pack<uint32_t>({2}), &request);
  return request;
}

v1::WorkerTokenEvent LookAt(uint64_t key, uint32_t beam, uint32_t same,
                            const std::vector<int32_t>& ids) {
  v1::WorkerTokenEvent event;
  event.set_key(key);
  event.set_sample_index(beam);
  event.set_first_position(same);
  event.mutable_token_ids()->Assign(ids.begin(), ids.end());
  event.set_snapshot(true);
  return event;
}

TEST_F(TritonTest, BeamsAreShownAsTheyStand) {
  Stream stream(stub_.get());
  stream.stream->Write(BeamsRequest());
  const v1::WorkerSubmit submit = cluster_.worker().AwaitSubmit();
  EXPECT_EQ(submit.beam_snapshot_interval(), 5u);
  EXPECT_EQ(submit.beam_snapshot_offset(), 4u);
  FakeWorker& worker = cluster_.worker();
  worker.Send(LookAt(submit.key(), 0, 0, ByteIds("x")));
  worker.Send(LookAt(submit.key(), 1, 0, ByteIds("y")));
  EXPECT_THAT(TextsOf(stream.Read().infer_response()), ElementsAre("<s>abcx", "<s>abcy"));
  // The second beam is another one now.
  worker.Send(LookAt(submit.key(), 0, 1, ByteIds("12345")));
  worker.Send(LookAt(submit.key(), 1, 0, ByteIds("x1234\xc3")));
  const ModelStreamInferResponse response = stream.Read();
  EXPECT_THAT(TextsOf(response.infer_response()), ElementsAre("<s>abcx12345", "<s>abcx1234"));
  EXPECT_EQ(ElementAt<uint32_t>(RawOf(response.infer_response(), "sequence_length"), 1), 10u);
  EXPECT_FALSE(IsFinal(response));
  EXPECT_EQ(cluster_.tokenizer().num_decodes(), 1) << "the prompt is decoded once";
  for (uint32_t beam = 0; beam < 2; ++beam) {
    v1::WorkerTokenEvent end = LookAt(submit.key(), beam, 0, ByteIds(beam == 0 ? "best" : "next"));
    end.set_snapshot(false);
    end.set_finish(v1::WorkerTokenEvent::LENGTH);
    worker.Send(end);
  }
  const ModelStreamInferResponse last = stream.Read();
  EXPECT_TRUE(IsFinal(last));
  EXPECT_THAT(TextsOf(last.infer_response()), ElementsAre("<s>abcbest", "<s>abcnext"));
}

// "END" ends inside a token of the first beam; the second beam ends before it is complete.
TEST_F(TritonTest, BeamsAreShownUpToAStopWord) {
  ModelInferRequest request = EnsembleRequest({"abc"}, {20});
  request.clear_inputs();
  request.clear_raw_input_contents();
  AddInput("INPUT_0", "BYTES", 1, Texts({"abc"}), &request);
  AddInput("INPUT_1", "UINT32", 1, Pack<uint32_t>({20}), &request);
  AddInput("INPUT_2", "BYTES", 1, Texts({""}), &request);
  AddInput("INPUT_3", "BYTES", 1, Texts({"END"}), &request);
  AddInput("beam_width", "UINT32", 1, Pack<uint32_t>({2}), &request);
  AddInput("exclude_input_in_output", "BOOL", 1, std::string(1, '\1'), &request);
  Stream stream(stub_.get());
  stream.stream->Write(request);
  const uint64_t key = cluster_.worker().AwaitSubmit().key();
  const std::vector<int32_t> stopped = {WordId(1), WordId(4), WordId(5), WordId(0), WordId(0)};
  const std::vector<int32_t> going_on = {WordId(1), WordId(1), WordId(1), WordId(1), WordId(4)};
  const auto show = [&](bool as_end) {
    for (uint32_t beam = 0; beam < 2; ++beam) {
      v1::WorkerTokenEvent event = LookAt(key, beam, 0, beam == 0 ? stopped : going_on);
      event.set_snapshot(!as_end);
      if (as_end) event.set_finish(v1::WorkerTokenEvent::LENGTH);
      cluster_.worker().Send(event);
    }
    const ModelStreamInferResponse response = stream.Read();
    EXPECT_EQ(IsFinal(response), as_end);
    EXPECT_THAT(TextsOf(response.infer_response()), ElementsAre(" catEND", " cat cat cat catE"));
    const std::string lengths = RawOf(response.infer_response(), "sequence_length");
    EXPECT_EQ(ElementAt<uint32_t>(lengths, 0), 3u);
    EXPECT_EQ(ElementAt<uint32_t>(lengths, 1), 5u);
  };
  show(/*as_end=*/false);
  show(/*as_end=*/true);  // the same
}

TEST_F(TritonTest, ALookAtBeamsWithAGapEndsTheRequest) {
  Stream stream(stub_.get());
  stream.stream->Write(BeamsRequest());
  const uint64_t key = cluster_.worker().AwaitSubmit().key();
  cluster_.worker().Send(LookAt(key, 0, 3, ByteIds("x")));
  EXPECT_THAT(stream.Read().error_message(), HasSubstr("skipped tokens of a beam: position 3"));
}

TEST_F(TritonTest, AnErrorInTheMiddleEndsTheRequestAndItsOtherRows) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc", "xyz"}, {20, 20}, "broken"));
  const v1::WorkerSubmit first = cluster_.worker().AwaitSubmit();
  const v1::WorkerSubmit second = cluster_.worker().AwaitSubmit();
  v1::WorkerTokenEvent event;
  event.set_key(first.key());
  event.set_finish(v1::WorkerTokenEvent::ERROR);
  event.set_code(static_cast<int>(absl::StatusCode::kInternal));
  event.set_message("the test says so");
  cluster_.worker().Send(event);
  const ModelStreamInferResponse response = stream.Read();
  EXPECT_THAT(response.error_message(), HasSubstr("the test says so"));
  EXPECT_EQ(response.infer_response().id(), "broken");
  EXPECT_TRUE(IsFinal(response));
  EXPECT_THAT(
      (std::vector<uint64_t>{cluster_.worker().AwaitCancel(), cluster_.worker().AwaitCancel()}),
      testing::UnorderedElementsAre(first.key(), second.key()));
  stream.stream->Write(EnsembleRequest({"abc"}, {1}, "next"));
  cluster_.worker().Emit(cluster_.worker().AwaitSubmit().key(), {WordId(0)},
                         v1::WorkerTokenEvent::LENGTH);
  EXPECT_EQ(stream.Read().infer_response().id(), "next");
}

TEST_F(TritonTest, AClientThatLeavesCancelsItsRows) {
  {
    Stream stream(stub_.get());
    stream.stream->Write(EnsembleRequest({"abc"}, {20}));
    const v1::WorkerSubmit submit = cluster_.worker().AwaitSubmit();
    stream.context.TryCancel();
    EXPECT_EQ(cluster_.worker().AwaitCancel(), submit.key());
  }
  grpc::ClientContext context;
  ModelInferResponse response;
  const ModelInferRequest request = EnsembleRequest({"abc", "x"}, {20, 20});
  std::promise<grpc::StatusCode> ended;
  stub_->async()->ModelInfer(&context, &request, &response, [&](const grpc::Status& status) {
    ended.set_value(status.error_code());
  });
  const uint64_t first = cluster_.worker().AwaitSubmit().key();
  const uint64_t second = cluster_.worker().AwaitSubmit().key();
  context.TryCancel();
  EXPECT_THAT(
      (std::vector<uint64_t>{cluster_.worker().AwaitCancel(), cluster_.worker().AwaitCancel()}),
      testing::UnorderedElementsAre(first, second));
  EXPECT_EQ(ended.get_future().get(), grpc::StatusCode::CANCELLED);
}

TEST_F(TritonTest, StopWordsOfTwoTokensReachTheWorker) {
  ModelInferRequest request;
  request.set_model_name("fastertransformer");
  AddInput("input_ids", "UINT32", 1, Pack<uint32_t>({1}), &request);
  AddInput("input_lengths", "UINT32", 1, Pack<uint32_t>({1}), &request);
  AddInput("request_output_len", "UINT32", 1, Pack<uint32_t>({4}), &request);
  AddInput("stop_words_list", "INT32", 1, Pack<int32_t>({7, 8, 9, 2, 3, -1}), &request);
  request.mutable_inputs(3)->mutable_shape()->Clear();
  for (const int64_t dimension : {1, 2, 3}) request.mutable_inputs(3)->add_shape(dimension);
  Stream stream(stub_.get());
  stream.stream->Write(request);
  const v1::WorkerSubmit submit = cluster_.worker().AwaitSubmit();
  ASSERT_EQ(submit.sampling().stop_sequences_size(), 2);
  EXPECT_THAT(submit.sampling().stop_sequences(0).ids(), ElementsAre(7, 8));
  EXPECT_THAT(submit.sampling().stop_sequences(1).ids(), ElementsAre(9));
  cluster_.worker().Emit(submit.key(), {9}, v1::WorkerTokenEvent::STOP_TOKEN);
  EXPECT_TRUE(IsFinal(stream.Read()));
}

TEST_F(TritonTest, PreprocessingDoesNotWidenManyRowsToALongOne) {
  const auto encode = [this](size_t rows, size_t longest, const std::string& stop_word) {
    std::vector<std::string> texts(rows, "a");
    texts[1] = std::string(longest, 'a');
    std::vector<std::string> stop_lines(rows);
    stop_lines[0] = stop_word;
    ModelInferRequest request;
    request.set_model_name("preprocessing");
    const auto num_rows = static_cast<int64_t>(rows);
    AddInput("QUERY", "BYTES", num_rows, Texts(texts), &request);
    AddInput("REQUEST_OUTPUT_LEN", "UINT32", num_rows, Pack(std::vector<uint32_t>(rows, 1)),
             &request);
    AddInput("BAD_WORDS_DICT", "BYTES", num_rows, Texts(std::vector<std::string>(rows)), &request);
    AddInput("STOP_WORDS_DICT", "BYTES", num_rows, Texts(stop_lines), &request);
    grpc::ClientContext context;
    ModelInferResponse response;
    return stub_->ModelInfer(&context, request, &response);
  };
  EXPECT_TRUE(encode(1000, 8000, "").ok());
  const grpc::Status wide = encode(1000, 9000, "");
  EXPECT_EQ(wide.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(wide.error_message(), testing::AllOf(HasSubstr("QUERY: 1000 rows of 9001 elements"),
                                                   HasSubstr("8388608 elements")));
  const grpc::Status words = encode(1000, 1, std::string(5000, 'w'));
  EXPECT_EQ(words.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(words.error_message(), HasSubstr("STOP_WORDS_DICT: 1000 rows of"));
}

class LongContextTest : public TritonTest {
 protected:
  static FakeWorker::Options Options() {
    FakeWorker::Options options;
    options.max_context_tokens = 1 << 20;
    return options;
  }
  LongContextTest() : TritonTest({}, Options()) {}
};

TEST_F(LongContextTest, OutputsHaveABound) {
  Stream stream(stub_.get());
  // 33 rows, each as long as the longest: 33 · (2^20 - 100 + 4) ids are above 2^25.
  std::vector<uint32_t> lengths(33, 1);
  lengths[7] = (1 << 20) - 100;
  stream.stream->Write(EnsembleRequest(std::vector<std::string>(33, "abc"), lengths));
  const ModelStreamInferResponse response = stream.Read();
  EXPECT_TRUE(IsFinal(response));
  EXPECT_THAT(response.error_message(),
              testing::AllOf(HasSubstr("INPUT_1: 33 rows of 1 beams and up to 1048480 tokens"),
                             HasSubstr("34599840 elements; at most 33554432 are allowed")));
  // One row less fits.
  lengths.pop_back();
  lengths[7] = (1 << 20) - 100;
  stream.stream->Write(EnsembleRequest(std::vector<std::string>(32, "abc"), lengths));
  for (int row = 0; row < 32; ++row) cluster_.worker().AwaitSubmit();
}

TEST_F(TritonTest, IsReadyWhileATokenizerAnswers) {
  const auto ready = [this] {
    grpc::ClientContext context;
    inference::ServerReadyResponse response;
    EXPECT_TRUE(stub_->ServerReady(&context, {}, &response).ok());
    return response.ready();
  };
  EXPECT_TRUE(ready());
  cluster_.tokenizer().Stop();
  Cluster::Await([&] { return !ready(); });
}

class SlowReaderTest : public TritonTest {
 protected:
  static GatewayConfig Config() {
    GatewayConfig config;
    config.output.slow_reader_timeout_ms = 300;
    return config;
  }
  SlowReaderTest() : TritonTest(Config()) {}
};

// Of a client that takes 8 KiB and no more until it reads.
std::unique_ptr<GRPCInferenceService::Stub> SlowStub(int port) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 10);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return GRPCInferenceService::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments));
}

TEST_F(SlowReaderTest, AClientThatTakesNothingIsCutOff) {
  const auto slow = SlowStub(cluster_.gateway().port());
  Stream stream(slow.get());
  ModelInferRequest request = EnsembleRequest({std::string(200, 'a')}, {300});
  (*request.mutable_parameters())["stream_interval"].set_int64_param(1);
  stream.stream->Write(request);
  const uint64_t key = cluster_.worker().AwaitSubmit().key();
  // 300 responses of 200 to 1400 bytes, which nobody reads.
  cluster_.worker().Emit(key, std::vector<int32_t>(299, WordId(1)));
  EXPECT_EQ(cluster_.worker().AwaitCancel(), key);  // only now does the client look
  ModelStreamInferResponse response;
  while (stream.stream->Read(&response)) {
  }
  EXPECT_EQ(stream.stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// A look at beams has the tokens and texts of all: 200 kB here.
TEST_F(LongContextTest, LooksAtBeamsThatNobodyTakesAreBoundedByTheirBytes) {
  constexpr uint32_t kTokens = 20000;  // of a beam at the first look
  constexpr uint32_t kLooks = 120;
  const auto slow = SlowStub(cluster_.gateway().port());
  Stream stream(slow.get());
  ModelInferRequest request = EnsembleRequest({"abc"}, {kTokens + kLooks});
  AddInput("beam_width", "UINT32", 1, Pack<uint32_t>({2}), &request);
  (*request.mutable_parameters())["stream_interval"].set_int64_param(1);
  stream.stream->Write(request);
  const uint64_t key = cluster_.worker().AwaitSubmit().key();
  for (uint32_t look = 0; look < kLooks; ++look) {
    for (uint32_t beam = 0; beam < 2; ++beam) {
      const std::string text(look == 0 ? kTokens : 1, 'x');
      const uint32_t same = look == 0 ? 0 : kTokens + look - 1;
      cluster_.worker().Send(LookAt(key, beam, same, ByteIds(text)));
    }
  }
  for (uint32_t beam = 0; beam < 2; ++beam) {
    v1::WorkerTokenEvent end = LookAt(key, beam, 0, ByteIds(std::string(kTokens + kLooks, 'y')));
    end.set_snapshot(false);
    end.set_finish(v1::WorkerTokenEvent::LENGTH);
    cluster_.worker().Send(end);
  }
  int num_responses = 0;
  size_t longest = 0;
  ModelStreamInferResponse response;
  do {
    response = stream.Read();
    ASSERT_THAT(response.error_message(), testing::IsEmpty());
    const size_t length = TextsOf(response.infer_response())[0].size();
    EXPECT_GT(length, longest) << "an older look after a newer one";
    longest = length;
    ++num_responses;
  } while (!IsFinal(response));
  EXPECT_GT(num_responses, 15);  // 4 MiB of looks
  EXPECT_LT(num_responses, 60);
}

}  // namespace
}  // namespace caravan
