#include "gateway/triton/protocol/classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/gateway/triton/protocol/request_maker.h"

namespace caravan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

InferOutput Numbers(DataType datatype, Shape shape, std::string data) {
  InferOutput output;
  output.name = "cum_log_probs";
  output.datatype = datatype;
  output.shape = std::move(shape);
  output.data = std::move(data);
  return output;
}

TEST(Classification, TakesTheGreatestOfEachRow) {
  const InferOutput classes =
      Classify(Numbers(DataType::kFp32, {2, 1, 3}, Pack<float>({-1.5F, 0.25F, -7, 2, NAN, 2})), 2);
  EXPECT_EQ(classes.name, "cum_log_probs");
  EXPECT_EQ(classes.datatype, DataType::kBytes);
  EXPECT_EQ(classes.shape, (Shape{2, 2}));
  EXPECT_THAT(UnpackBytes(classes.data),
              ElementsAre("0.250000:1", "-1.500000:0", "2.000000:0", "2.000000:2"));
}

TEST(Classification, HasNoMoreClassesThanElements) {
  const InferOutput classes =
      Classify(Numbers(DataType::kUint32, {1, 2}, Pack<uint32_t>({7, 4000000000})), 1000);
  EXPECT_EQ(classes.shape, (Shape{1, 2}));
  EXPECT_THAT(UnpackBytes(classes.data), ElementsAre("4000000000:1", "7:0"));
  const InferOutput none = Classify(Numbers(DataType::kInt32, {3, 0}, ""), 5);
  EXPECT_EQ(none.shape, (Shape{3, 0}));
  EXPECT_EQ(none.data, "");
}

std::string ErrorWith(const std::string& output, InferParameters parameters) {
  InferRequest request = EnsembleRequest();
  request.outputs.push_back({output, std::move(parameters)});
  const auto checked = Check(std::move(request));
  return checked.ok() ? "" : std::string(checked.status().message());
}

TEST(Classification, RequestsNameWhatIsWrong) {
  EXPECT_EQ(ErrorWith("cum_log_probs", {{kClassification, int64_t{2}}}), "");
  EXPECT_THAT(ErrorWith("OUTPUT_0", {{kClassification, int64_t{2}}}),
              HasSubstr("class result not available for output 'OUTPUT_0' due to unsupported type "
                        "'BYTES'"));
  for (const InferParameter& wrong :
       {InferParameter(int64_t{0}), InferParameter(int64_t{-1}), InferParameter(int64_t{1025}),
        InferParameter(std::string("2")), InferParameter(true)}) {
    EXPECT_THAT(ErrorWith("cum_log_probs", {{kClassification, wrong}}),
                HasSubstr("'classification' parameter of 'cum_log_probs'"));
  }
  EXPECT_THAT(ErrorWith("cum_log_probs", {{kClassification, int64_t{1}},
                                          {kSharedMemoryRegion, std::string("r")},
                                          {kSharedMemoryByteSize, int64_t{4}}}),
              HasSubstr("exclude each other"));
}

}  // namespace
}  // namespace caravan
