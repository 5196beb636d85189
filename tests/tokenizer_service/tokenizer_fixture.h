// Tokenizer folders for tests, as tests/golden/tokenizer/golden.json describes them.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tokenizer_service/tokenizer.h"

namespace caravan {

// Each folder of model_folders.py with what transformers says about it.
const nlohmann::json& Golden();

// Writes bytes to a file of a folder under the test's temporary folder; the folder's path.
std::string WriteToFolder(const std::string& folder, const std::string& file,
                          std::string_view bytes);

// The bytes of tests/golden/tokenizer/NAME.model.
std::string ModelBytes(const std::string& name);

// A folder with that model and no other file.
std::string FolderWithModel(const std::string& folder, const std::string& model);

// Golden folder `name` written out; loaded.
std::string GoldenFolder(const std::string& name);
std::unique_ptr<Tokenizer> LoadGolden(const std::string& name);

}  // namespace caravan
