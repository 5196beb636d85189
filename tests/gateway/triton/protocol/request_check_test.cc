#include "gateway/triton/protocol/request_check.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/gateway/triton/protocol/request_maker.h"

namespace caravan {
namespace {

std::string ErrorOf(InferRequest request, int max_batch_size = 1024) {
  const auto checked = Check(std::move(request), max_batch_size);
  if (checked.ok()) return "";
  return std::string(checked.status().message());
}

TEST(RequestCheck, AcceptsWhatTheCatalogueSays) {
  InferRequest request = EnsembleRequest(2);
  request.inputs.push_back(Column<float>("temperature", "FP32", {0.5F, 2}));
  const auto checked = Check(std::move(request));
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->rows(), 2);
  EXPECT_EQ(checked->Scalar<float>("temperature", 1), 2);
  EXPECT_EQ(checked->Scalar<float>("len_penalty", 1), std::nullopt);
  EXPECT_FALSE(checked->uses_newer_names());
  for (const char* output : {"OUTPUT_0", "sequence_length", "cum_log_probs", "output_log_probs"}) {
    EXPECT_TRUE(checked->Wants(output)) << output;
  }
  EXPECT_FALSE(checked->Wants("text_output"));
}

TEST(RequestCheck, NamesWhatIsWrong) {
  const auto with = [](const std::function<void(InferRequest*)>& change) {
    InferRequest request = EnsembleRequest(2);
    request.id = "7";
    change(&request);
    return ErrorOf(std::move(request));
  };
  EXPECT_EQ(with([](InferRequest* r) {
              r->inputs.push_back(Strings("extra", {"a", "b"}));
            }),
            "[request id: 7] unexpected inference input 'extra' for model 'ensemble'");
  EXPECT_EQ(with([](InferRequest* r) { r->inputs.push_back(r->inputs[0]); }),
            "[request id: 7] input 'INPUT_0' already exists in request");
  EXPECT_NE(with([](InferRequest* r) { r->inputs.pop_back(); })
                .find("expected number of inputs between 4 and 19 but got 3 inputs for model "
                      "'ensemble'. Got input(s) ['INPUT_0', 'INPUT_1', 'INPUT_2'], but missing "
                      "required input(s) ['INPUT_3']"),
            std::string::npos);
  EXPECT_EQ(with([](InferRequest* r) { r->inputs[1].datatype = "INT32"; }),
            "[request id: 7] inference input 'INPUT_1' data-type is 'INT32', but model "
            "'ensemble' expects 'UINT32'");
  EXPECT_NE(with([](InferRequest* r) { r->inputs[1].shape = {2}; })
                .find("unexpected shape for input 'INPUT_1' for model 'ensemble'. Expected "
                      "[-1,-1], got [2]"),
            std::string::npos);
  EXPECT_EQ(
      with([](InferRequest* r) { r->inputs.push_back(Column<float>("temperature", "FP32", {1})); }),
      "[request id: 7] input 'temperature' batch size does not match other inputs for "
      "'ensemble'");
  EXPECT_NE(with([](InferRequest* r) {
              r->inputs[1].data.pop_back();
            }).find("input byte size mismatch for input 'INPUT_1'. Expected 8, got 7"),
            std::string::npos);
  EXPECT_EQ(with([](InferRequest* r) {
              r->outputs.push_back({"OUTPUT_9", {}});
            }),
            "[request id: 7] unexpected inference output 'OUTPUT_9' for model 'ensemble'");
  EXPECT_NE(
      with([](InferRequest* r) { r->parameters["triton_secret"] = true; }).find("'triton_secret'"),
      std::string::npos);
  EXPECT_NE(with([](InferRequest* r) { r->parameters["priority"] = int64_t{-1}; }).find("priority"),
            std::string::npos);
  EXPECT_EQ(with([](InferRequest* r) { r->parameters["priority"] = uint64_t{3}; }), "");
}

TEST(RequestCheck, LimitsTheBatch) {
  EXPECT_EQ(ErrorOf(EnsembleRequest(3), 2),
            "[request id: <id_unknown>] inference request batch-size must be <= 2 for 'ensemble'");
  InferRequest empty = EnsembleRequest(1);
  for (InferInput& input : empty.inputs) {
    input.shape[0] = 0;
    input.data.clear();
  }
  EXPECT_NE(ErrorOf(std::move(empty)).find("batch size 0"), std::string::npos);
}

TEST(RequestCheck, RefusesShapesThatOverflow) {
  for (const Shape& shape : {Shape{int64_t{1} << 40, int64_t{1} << 40}, Shape{1, int64_t{1} << 62},
                             Shape{-1, 1}, Shape{1, int64_t{1} << 31}}) {
    InferRequest request = EnsembleRequest(1);
    request.inputs[0].shape = shape;
    EXPECT_NE(ErrorOf(std::move(request)).find("'INPUT_0'"), std::string::npos);
  }
}

TEST(RequestCheck, TakesTheNamesOfNewerClients) {
  InferRequest request;
  request.model_name = "ensemble";
  request.inputs = {MakeInput("text_input", "BYTES", {1}, std::string("\2\0\0\0hi", 6)),
                    MakeInput("max_tokens", "INT32", {1}, Pack<int32_t>({5})),
                    MakeInput("stream", "BOOL", {1}, "\1")};
  const auto checked = Check(request);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_TRUE(checked->uses_newer_names());
  EXPECT_EQ(**checked->Unsigned("max_tokens", 0), 5u);
  EXPECT_TRUE(*checked->Scalar<bool>("stream", 0));
  EXPECT_TRUE(checked->Wants("text_output"));
  EXPECT_FALSE(checked->Wants("OUTPUT_0"));

  request.inputs.push_back(Strings("INPUT_0", {"x"}));
  EXPECT_NE(ErrorOf(request).find("exclude each other"), std::string::npos);
  request.inputs.back() = MakeInput("seed", "INT64", {1}, Pack<int64_t>({-1}));
  const auto negative = Check(std::move(request));
  ASSERT_TRUE(negative.ok());
  EXPECT_FALSE(negative->Unsigned("seed", 0).ok());
}

TEST(RequestCheck, ReadsSharedMemoryParameters) {
  InferRequest request = EnsembleRequest(1);
  request.inputs[1].parameters = {{kSharedMemoryRegion, std::string("r")},
                                  {kSharedMemoryByteSize, int64_t{4}}};
  EXPECT_EQ(ErrorOf(request), "[request id: <id_unknown>] input 'INPUT_1': no region 'r'");
  request.inputs[1].parameters[kSharedMemoryByteSize] = int64_t{8};
  EXPECT_NE(ErrorOf(request).find("Expected 4, got 8"), std::string::npos);
  request.inputs[1].parameters[kSharedMemoryByteSize] = int64_t{-4};
  EXPECT_NE(ErrorOf(request).find("'INPUT_1'"), std::string::npos);
  request.inputs[1].parameters.erase(kSharedMemoryByteSize);
  EXPECT_NE(ErrorOf(request).find("'shared_memory_byte_size' is missing"), std::string::npos);
  request.inputs[1].parameters = {{kSharedMemoryByteSize, int64_t{4}}};
  EXPECT_NE(ErrorOf(request).find("'shared_memory_region' is missing"), std::string::npos);
}

}  // namespace
}  // namespace caravan
