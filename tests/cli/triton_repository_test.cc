#include "cli/triton_repository.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gateway/triton/protocol/model_catalog.h"

namespace caravan {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

constexpr char kModel[] = R"(
name: "fastertransformer"
backend: "fastertransformer"
default_model_filename: "llama"
max_batch_size: 1024
model_transaction_policy { decoupled: True }
input [ { name: "input_ids" data_type: TYPE_UINT32 dims: [ -1 ] } ]
output [ { name: "output_ids" data_type: TYPE_UINT32 dims: [ -1, -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "tensor_para_size" value: { string_value: "2" } }
parameters { key: "data_type" value: { string_value: "fp16" } }
parameters { key: "model_type" value: { string_value: "Llama" } }
)";

constexpr char kEnsemble[] = R"(
name: "ensemble"
platform: "ensemble"
max_batch_size: 64
input [ { name: "INPUT_0" data_type: TYPE_STRING dims: [ -1 ] } ]
ensemble_scheduling {
  step [
    { model_name: "preprocessing" model_version: -1
      input_map { key: "QUERY" value: "INPUT_0" } output_map { key: "INPUT_ID" value: "_INPUT_ID" } },
    { model_name: "fastertransformer" model_version: -1
      input_map { key: "input_ids" value: "_INPUT_ID" }
      input_map { key: "temperature" value: "temperature" } },
    { model_name: "postprocessing" model_version: -1
      output_map { key: "OUTPUT" value: "OUTPUT_0" } }
  ]
}
)";

class TritonRepositoryTest : public testing::Test {
 protected:
  TritonRepositoryTest() : folder_(testing::TempDir() + "/caravan_repository_XXXXXX") {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    std::filesystem::create_directories(folder_ + "/fastertransformer/1/llama");
    std::ofstream(folder_ + "/fastertransformer/1/llama/config.ini") << "[llama]\n";
  }
  ~TritonRepositoryTest() override {
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }

  void Write(const std::string& model, std::string text, const std::string& from = "",
             const std::string& to = "") {
    if (!from.empty()) {
      ASSERT_NE(text.find(from), std::string::npos) << from;
      text.replace(text.find(from), from.size(), to);
    }
    std::filesystem::create_directories(folder_ + "/" + model);
    std::ofstream(folder_ + "/" + model + "/config.pbtxt") << text;
  }
  std::string Error() {
    const auto repository = ReadTritonRepository(folder_);
    EXPECT_FALSE(repository.ok());
    return std::string(repository.status().message());
  }
  // … of the model with a change.
  std::string ErrorWith(const std::string& from, const std::string& to) {
    Write("fastertransformer", kModel, from, to);
    return Error();
  }

  std::string folder_;
};

TEST_F(TritonRepositoryTest, ReadsWhatTheModelSays) {
  Write("fastertransformer", kModel);
  Write("ensemble", kEnsemble);
  const auto repository = ReadTritonRepository(folder_);
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_EQ(repository->tensor_parallel, 2);
  EXPECT_EQ(repository->dtype(), "float16");
  EXPECT_TRUE(repository->decoupled);
  EXPECT_EQ(repository->max_batch_size, 64);
  EXPECT_EQ(repository->checkpoint, folder_ + "/fastertransformer/1/llama");
  EXPECT_THAT(repository->notes,
              Contains("preprocessing is not in the repository; it is served too"));
}

TEST_F(TritonRepositoryTest, SaysWhatIsServedOtherwise) {
  Write("fastertransformer", std::string(kModel) + R"(
    dynamic_batching { }
    parameters { key: "pipeline_para_size" value: { string_value: "2" } }
    parameters { key: "int8_mode" value: { string_value: "1" } }
    parameters { key: "colour" value: { string_value: "red" } })");
  const auto repository = ReadTritonRepository(folder_);
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_EQ(repository->tensor_parallel, 4);
  EXPECT_THAT(repository->notes, Contains(HasSubstr("dynamic_batching has no effect")));
  EXPECT_THAT(repository->notes, Contains(HasSubstr("all 4 ranks share each layer")));
  EXPECT_THAT(repository->warnings, Contains(HasSubstr("int8_mode is 1")));
  EXPECT_THAT(repository->notes, Contains(HasSubstr("parameter colour is not known")));
}

TEST_F(TritonRepositoryTest, NamesEveryFieldThatHasNoEffect) {
  std::string model = kModel;
  model.replace(model.find("count: 1 kind: KIND_CPU"), 23, "count: 2 kind: KIND_GPU gpus: [ 0 ]");
  model.replace(model.find("TYPE_UINT32"), 11, "TYPE_UINT32 allow_ragged_batch: true");
  Write("fastertransformer", model + R"(
    metric_tags { key: "team" value: "a" }
    batch_input [ { kind: BATCH_ITEM_SHAPE target_name: "s" source_input: "input_ids" } ]
    batch_output [ { target_name: "output_ids" } ]
    runtime: "x.so"
    model_warmup [ { name: "w" } ])");
  Write("preprocessing", R"(
    backend: "python" max_batch_size: 8
    parameters { key: "tokenizer_dir" value: { string_value: "/llama" } })");
  const auto repository = ReadTritonRepository(folder_);
  ASSERT_TRUE(repository.ok()) << repository.status();
  for (const char* field : {"instance_group.count", "instance_group.kind", "instance_group.gpus",
                            "input.allow_ragged_batch", "metric_tags", "batch_input",
                            "batch_output", "runtime", "model_warmup"}) {
    EXPECT_THAT(repository->notes,
                Contains(HasSubstr(std::string("fastertransformer: ") + field + " has no effect")));
  }
  EXPECT_THAT(repository->notes, Contains("preprocessing: parameters has no effect"));
  EXPECT_THAT(repository->notes, Contains(HasSubstr("preprocessing: its model.py is not run")));
}

TEST_F(TritonRepositoryTest, ComparesTypesAndDimensionsWithWhatIsServed) {
  EXPECT_THAT(ErrorWith("TYPE_UINT32 dims: [ -1 ]", "TYPE_INT64 dims: [ -1 ]"),
              HasSubstr("input input_ids is TYPE_INT64; it is served as TYPE_UINT32"));
  EXPECT_THAT(ErrorWith("TYPE_UINT32 dims: [ -1, -1 ]", "TYPE_FP16 dims: [ -1, -1 ]"),
              HasSubstr("output output_ids is TYPE_FP16; it is served as TYPE_UINT32"));
  Write("fastertransformer", kModel, "dims: [ -1 ]", "dims: [ 512 ]");
  auto repository = ReadTritonRepository(folder_);
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_TRUE(repository->warnings.empty()) << "512 ids are served too";
  Write("fastertransformer", kModel, "dims: [ -1 ]", "dims: [ -1, 3 ]");
  repository = ReadTritonRepository(folder_);
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_THAT(repository->warnings, Contains("fastertransformer: input input_ids has dims [-1, 3]; "
                                             "it is served with [-1]"));
}

// What the gateway reports of its models is a repository without a surprise.
TEST_F(TritonRepositoryTest, TheGatewaysOwnConfigurationsAreServed) {
  ModelCatalogOptions options;
  options.checkpoint_path = folder_ + "/fastertransformer/1/llama";
  for (const TritonModel& model : MakeModelCatalog(options)) {
    std::string text;
    google::protobuf::TextFormat::PrintToString(model.config, &text);
    Write(model.name, text);
  }
  const auto repository = ReadTritonRepository(folder_);
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_THAT(repository->warnings, testing::IsEmpty());
  for (const std::string& note : repository->notes) {
    EXPECT_THAT(note, testing::AnyOf(HasSubstr("version_policy"), HasSubstr("model.py")));
  }
  EXPECT_EQ(repository->max_batch_size, 1024);
  EXPECT_TRUE(repository->decoupled);
}

TEST_F(TritonRepositoryTest, NamesWhatIsWrong) {
  EXPECT_THAT(Error(), HasSubstr("is no model repository"));
  EXPECT_THAT(ErrorWith("backend:", "back_end:"),
              AllOf(HasSubstr("fastertransformer/config.pbtxt: line 3"), HasSubstr("back_end")));
  EXPECT_THAT(ErrorWith("max_batch_size: 1024", "max_batch_size: \"x\""), HasSubstr("line 5"));
  EXPECT_THAT(ErrorWith("name: \"fastertransformer\"", "name: \"llama\""),
              HasSubstr("name is 'llama', the folder's is 'fastertransformer'"));
  EXPECT_THAT(ErrorWith("backend: \"fastertransformer\"", "backend: \"onnxruntime\""),
              HasSubstr("its backend is 'onnxruntime'"));
  EXPECT_THAT(ErrorWith("Llama", "GPT-J"), HasSubstr("model_type is 'GPT-J'"));
  EXPECT_THAT(ErrorWith("\"2\"", "\"0\""), HasSubstr("tensor_para_size is '0', must be a number"));
  EXPECT_THAT(ErrorWith("fp16", "fp8"), HasSubstr("data_type is 'fp8'"));
  EXPECT_THAT(ErrorWith("max_batch_size: 1024", "max_batch_size: 0"),
              HasSubstr("max_batch_size is 0"));
  EXPECT_THAT(ErrorWith("\"input_ids\"", "\"memory_len\""), HasSubstr("input memory_len"));
  EXPECT_THAT(ErrorWith("\"output_ids\"", "\"logits\""), HasSubstr("output logits"));
  std::filesystem::remove(folder_ + "/fastertransformer/1/llama/config.ini");
  EXPECT_THAT(ErrorWith("1024", "8"),
              AllOf(HasSubstr("model_checkpoint_path"), HasSubstr("/fastertransformer/1/llama")));
}

TEST_F(TritonRepositoryTest, NamesAModelOrAWireThatIsNotServed) {
  Write("fastertransformer", kModel);
  Write("ensemble", kEnsemble, "value: \"INPUT_0\"", "value: \"TEXT\"");
  EXPECT_THAT(Error(), HasSubstr("step preprocessing has input QUERY wired to TEXT; it is served "
                                 "from INPUT_0"));
  Write("ensemble", kEnsemble, "key: \"temperature\"", "key: \"heat\"");
  EXPECT_THAT(Error(), HasSubstr("input heat wired to temperature, which is not served"));
  Write("ensemble", kEnsemble, "model_name: \"postprocessing\"", "model_name: \"translation\"");
  EXPECT_THAT(Error(), HasSubstr("step translation is not served"));
  Write("ensemble", kEnsemble);
  Write("bert", "backend: \"fastertransformer\" max_batch_size: 8");
  EXPECT_THAT(Error(), HasSubstr("bert/config.pbtxt: is not served"));
}

// It looked like a folder without a model, and another model was missed in its place.
TEST_F(TritonRepositoryTest, NamesALinkThatLeadsNowhere) {
  Write("ensemble", kEnsemble);
  const std::string config = folder_ + "/fastertransformer/config.pbtxt";
  std::filesystem::create_symlink("/nowhere/config.pbtxt", config);
  EXPECT_EQ(Error(), config + " is a link to /nowhere/config.pbtxt, which can't be read");
  std::filesystem::remove(config);
  Write("fastertransformer", kModel);
  EXPECT_TRUE(ReadTritonRepository(folder_).ok());
  std::filesystem::create_directory_symlink("/nowhere/model", folder_ + "/preprocessing");
  EXPECT_EQ(Error(), folder_ + "/preprocessing is a link to /nowhere/model, which can't be read");
}

}  // namespace
}  // namespace caravan
