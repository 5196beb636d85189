#include "tests/tokenizer_service/tokenizer_fixture.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/status.h"
#include "tokenizer_service/tokenizer_files.h"

namespace caravan {
namespace {

const std::string kGoldenPath = CARAVAN_SOURCE_DIR "/tests/golden/tokenizer/";

std::string ReadOrDie(const std::string& path) {
  auto bytes = ReadFile(path);
  CARAVAN_CHECK(bytes.ok(), path);
  return *std::move(bytes);
}

}  // namespace

const nlohmann::json& Golden() {
  static const auto* golden =
      new nlohmann::json(nlohmann::json::parse(ReadOrDie(kGoldenPath + "golden.json")));
  return *golden;
}

std::string WriteToFolder(const std::string& folder, const std::string& file,
                          std::string_view bytes) {
  std::string path = absl::StrCat(testing::TempDir(), "/tokenizer_test_", getpid(), "/", folder);
  std::filesystem::create_directories(path);
  std::ofstream(path + "/" + file, std::ios::binary | std::ios::trunc) << bytes;
  return path;
}

std::string ModelBytes(const std::string& name) { return ReadOrDie(kGoldenPath + name + ".model"); }

std::string FolderWithModel(const std::string& folder, const std::string& model) {
  return WriteToFolder(folder, "tokenizer.model", ModelBytes(model));
}

std::string GoldenFolder(const std::string& name) {
  const nlohmann::json& golden = Golden().at(name);
  std::string path = FolderWithModel("golden_" + name, golden.at("model").get<std::string>());
  for (const auto& [file, content] : golden.at("files").items()) {
    WriteToFolder("golden_" + name, file, content.dump());
  }
  return path;
}

std::unique_ptr<Tokenizer> LoadGolden(const std::string& name) {
  auto tokenizer = LoadTokenizer(GoldenFolder(name));
  CARAVAN_CHECK(tokenizer.ok(), name, ": ", tokenizer.status().message());
  return *std::move(tokenizer);
}

}  // namespace caravan
