// What `caravan up` looks at before it starts anything, so that a mistake is answered at once.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace caravan {

// Is there, is a folder, has a config.json, or a config.ini as FasterTransformer's checkpoints do.
// What is in it is the worker's to judge.
absl::Status CheckModelFolder(const std::string& model);

// Is there, where it is given; FasterTransformer's checkpoints hold no tokenizer, so it must be.
absl::Status CheckTokenizerFolder(const std::string& tokenizer, const std::string& model);

// The three programs lie in this folder.
absl::Status CheckPrograms(const std::string& folder);

// --host is an address or a name of this host.
absl::Status CheckHost(const std::string& host);

struct PortToCheck {
  std::string flag;  // is named in the message
  std::string host;
  int port = 0;
};
// Nobody listens on any of them, and no two are one; 0 is always free.
absl::Status CheckPortsAreFree(const std::vector<PortToCheck>& ports);

// The folder that this program lies in.
std::string OwnProgramFolder();

}  // namespace caravan
