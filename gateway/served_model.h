// What the gateway knows of the models that its replicas serve.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace caravan {

// From a replica's welcome; kept while the gateway lives, so that requests can be validated and
// queued while no replica is ready.
struct ServedModel {
  std::string name;
  std::string architecture;
  std::string dtype;
  std::string fingerprint;
  int32_t vocabulary_size = 0;     // 0: no replica has loaded it yet, and nothing else is known
  int32_t max_context_tokens = 0;  // prompt and output together
  int32_t max_prompt_tokens = 0;
  int32_t block_tokens = 0;
  std::vector<int32_t> eos_token_ids;
};

// By name. Immutable once published.
using ServedModels = std::map<std::string, std::shared_ptr<const ServedModel>>;

}  // namespace caravan
