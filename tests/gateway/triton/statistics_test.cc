// What ModelStatistics counts of requests that end in every way.
#include "gateway/triton/statistics.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/gateway/triton/triton_client.h"

namespace caravan {
namespace {

using testing::HasSubstr;

void AddScalar(const char* name, const char* datatype, const std::string& raw,
               ModelInferRequest* request) {
  AddInput(name, datatype, request->inputs(0).shape(0), raw, request);
}

class StatisticsTest : public TritonTest {
 protected:
  inference::ModelStatistics Of(const std::string& model) {
    grpc::ClientContext context;
    inference::ModelStatisticsRequest request;
    inference::ModelStatisticsResponse response;
    request.set_name(model);
    EXPECT_TRUE(stub_->ModelStatistics(&context, request, &response).ok());
    return response.model_stats_size() == 1 ? response.model_stats(0)
                                            : inference::ModelStatistics();
  }
  uint64_t Failures(const std::string& model) { return Of(model).inference_stats().fail().count(); }
  uint64_t Successes(const std::string& model) {
    return Of(model).inference_stats().success().count();
  }

  std::string ErrorOf(const ModelInferRequest& request) {
    Stream stream(stub_.get());
    stream.stream->Write(request);
    return stream.Read().error_message();
  }
};

TEST(DurationStatistic, ADurationBelowZeroCountsAsZero) {
  DurationStatistic duration;
  duration.Add(std::chrono::nanoseconds(5));
  duration.Add(std::chrono::nanoseconds(-7));
  EXPECT_EQ(duration.count, 2u);
  EXPECT_EQ(duration.ns, 5u);
}

TEST_F(StatisticsTest, ValuesThatCanNotBeServedAreFailures) {
  ModelInferRequest request = EnsembleRequest({"abc"}, {3});
  AddScalar("temperature", "FP32", Pack<float>({-1}), &request);
  EXPECT_THAT(ErrorOf(request), HasSubstr("temperature of row 0 is -1"));
  request = EnsembleRequest({"abc"}, {3});
  AddScalar("beam_width", "UINT32", Pack<uint32_t>({99}), &request);
  EXPECT_THAT(ErrorOf(request), HasSubstr("beam_width is 99"));
  EXPECT_THAT(ErrorOf(EnsembleRequest({"abc"}, {1u << 30})), HasSubstr("INPUT_1 of row 0"));
  EXPECT_EQ(Failures("ensemble"), 3u);
  EXPECT_EQ(Failures("fastertransformer"), 3u);
  EXPECT_EQ(Successes("ensemble"), 0u);
}

TEST_F(StatisticsTest, AFailureOfTheEnsembleIsOneOfTheModelThatFailed) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc"}, {20}));
  v1::WorkerTokenEvent event;
  event.set_key(cluster_.worker().AwaitSubmit().key());
  event.set_finish(v1::WorkerTokenEvent::ERROR);
  event.set_code(static_cast<int>(absl::StatusCode::kInternal));
  event.set_message("the test says so");
  cluster_.worker().Send(event);
  EXPECT_THAT(stream.Read().error_message(), HasSubstr("the test says so"));
  EXPECT_EQ(Failures("ensemble"), 1u);
  EXPECT_EQ(Failures("fastertransformer"), 1u);
  EXPECT_EQ(Successes("preprocessing"), 1u) << "the text was encoded";
  EXPECT_EQ(Failures("preprocessing") + Failures("postprocessing"), 0u);
  EXPECT_EQ(Of("ensemble").response_stats().at("0").fail().count(), 1u);
  EXPECT_THAT(ErrorOf(EnsembleRequest({"not \xff text"}, {3})), HasSubstr("is not UTF-8"));
  EXPECT_EQ(Failures("ensemble"), 2u);
  EXPECT_EQ(Failures("preprocessing"), 1u);
  EXPECT_EQ(Failures("fastertransformer"), 1u) << "it was never asked";
}

TEST_F(StatisticsTest, AClientThatLeavesIsAFailureOfBoth) {
  {
    Stream stream(stub_.get());
    stream.stream->Write(EnsembleRequest({"abc"}, {20}));
    const uint64_t key = cluster_.worker().AwaitSubmit().key();
    stream.context.TryCancel();
    EXPECT_EQ(cluster_.worker().AwaitCancel(), key);
  }
  EXPECT_EQ(Failures("ensemble"), 1u);
  EXPECT_EQ(Failures("fastertransformer"), 1u);
}

// One region of system shared memory, registered under the name "out".
class Region {
 public:
  Region(GRPCInferenceService::Stub* stub, size_t bytes)
      : key_("/triton_statistics_test_" + std::to_string(getpid())) {
    const int fd = shm_open(key_.c_str(), O_CREAT | O_RDWR, 0600);
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
    close(fd);
    grpc::ClientContext context;
    inference::SystemSharedMemoryRegisterRequest request;
    inference::SystemSharedMemoryRegisterResponse response;
    request.set_name("out");
    request.set_key(key_);
    request.set_byte_size(bytes);
    EXPECT_TRUE(stub->SystemSharedMemoryRegister(&context, request, &response).ok());
  }
  ~Region() { shm_unlink(key_.c_str()); }

 private:
  const std::string key_;
};

TEST_F(StatisticsTest, AnAnswerThatDoesNotFitItsRegionIsAFailure) {
  const Region region(stub_.get(), 4);
  ModelInferRequest request = EnsembleRequest({"abc"}, {1});
  auto* output = request.add_outputs();
  output->set_name("OUTPUT_0");
  (*output->mutable_parameters())["shared_memory_region"].set_string_param("out");
  (*output->mutable_parameters())["shared_memory_byte_size"].set_int64_param(4);
  Stream stream(stub_.get());
  stream.stream->Write(request);
  cluster_.worker().Emit(cluster_.worker().AwaitSubmit().key(), {WordId(0)},
                         v1::WorkerTokenEvent::LENGTH);
  EXPECT_THAT(stream.Read().error_message(), HasSubstr("should be at least"));
  EXPECT_EQ(Failures("ensemble"), 1u);
  EXPECT_EQ(Successes("ensemble"), 0u);
  EXPECT_EQ(Successes("fastertransformer"), 1u) << "that model did its part";
}

TEST_F(StatisticsTest, ResponsesOfAStreamAreCountedByIndex) {
  Stream stream(stub_.get());
  stream.stream->Write(EnsembleRequest({"abc"}, {7}));
  const uint64_t key = cluster_.worker().AwaitSubmit().key();
  cluster_.worker().Emit(key, {WordId(0)});
  EXPECT_FALSE(IsFinal(stream.Read()));
  cluster_.worker().Emit(key, std::vector<int32_t>(6, WordId(1)), v1::WorkerTokenEvent::LENGTH);
  ModelStreamInferResponse response;
  do response = stream.Read();
  while (!IsFinal(response));
  const inference::ModelStatistics statistics = Of("ensemble");
  const auto& first = statistics.response_stats().at("0");
  EXPECT_EQ(first.success().count(), 1u);
  EXPECT_EQ(first.compute_infer().count(), 1u);
  EXPECT_EQ(first.compute_output().count(), 1u);
  EXPECT_EQ(first.compute_infer().ns() + first.compute_output().ns(), first.success().ns());
  EXPECT_EQ(statistics.inference_stats().success().count(), 1u);
}

}  // namespace
}  // namespace caravan
