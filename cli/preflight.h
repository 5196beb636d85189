// What `caravan up` looks at before it starts anything, so that a mistake is answered at once.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace caravan {

// Is there, is a folder, has a config.json, or a config.ini as FasterTransformer's checkpoints do.
// What is in it is the worker's to judge.
absl::Status CheckModelFolder(const std::string& model);

// Is there, where it is given; FasterTransformer's checkpoints hold no tokenizer, so it must be.
absl::Status CheckTokenizerFolder(const std::string& tokenizer, const std::string& model);

// The three programs lie in this folder.
absl::Status CheckPrograms(const std::string& folder);

// Nobody listens on it; 0 is always free. `flag` is named in the message.
absl::Status CheckPortIsFree(const std::string& flag, const std::string& host, int port);

// The folder that this program lies in.
std::string OwnProgramFolder();

}  // namespace caravan
