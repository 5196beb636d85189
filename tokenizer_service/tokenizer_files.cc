#include "tokenizer_service/tokenizer_files.h"

#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "common/regular_file.h"
#include "common/status.h"

namespace caravan {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};
constexpr int64_t kMaxFileBytes = int64_t{1} << 30;  // real ones have a few million
constexpr char kAdditional[] = "additional_special_tokens";

// A JSON object and the file that it came from.
struct File {
  std::string path;
  Json json = Json::object();
  bool exists = false;

  absl::Status Error(const std::string& key, const char* expected) const {
    return absl::InvalidArgumentError(absl::StrCat(path, ": \"", key, "\" must be ", expected,
                                                   ", it is ", json[key].type_name()));
  }
  // The value of `key`; null for one that is absent or null.
  const Json* Find(const std::string& key) const {
    auto found = json.find(key);
    return found == json.end() || found->is_null() ? nullptr : &*found;
  }
};

absl::StatusOr<File> ReadObject(const std::string& folder, const char* name) {
  File file;
  file.path = folder + "/" + name;
  ASSIGN_OR_RETURN(const bool exists, PathExists(file.path));
  if (!exists) return file;
  ASSIGN_OR_RETURN(std::string text, ReadFile(file.path));
  file.json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (file.json.is_discarded()) return absl::InvalidArgumentError(file.path + ": not valid JSON");
  if (!file.json.is_object()) {
    return absl::InvalidArgumentError(file.path + ": must hold a JSON object");
  }
  file.exists = true;
  return file;
}

absl::Status ReadBool(const File& file, const char* key, bool& value) {
  const Json* found = file.Find(key);
  if (found == nullptr) return absl::OkStatus();
  if (!found->is_boolean()) return file.Error(key, "true or false");
  value = found->get<bool>();
  return absl::OkStatus();
}

// {"content": …, "lstrip": …}
absl::StatusOr<AddedToken> ParseAddedToken(const Json& json, const File& file,
                                           const std::string& key) {
  auto content = json.is_object() ? json.find("content") : json.end();
  if (!json.is_object() || content == json.end() || !content->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path, ": \"", key, "\" must hold tokens with a string \"content\", it has ",
        json.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80)));
  }
  AddedToken token;
  token.content = content->get<std::string>();
  const std::pair<const char*, bool*> flags[] = {{"single_word", &token.single_word},
                                                 {"lstrip", &token.lstrip},
                                                 {"rstrip", &token.rstrip},
                                                 {"special", &token.special}};
  for (const auto& [name, flag] : flags) {
    auto value = json.find(name);
    if (value == json.end()) continue;
    if (!value->is_boolean()) {
      return absl::InvalidArgumentError(absl::StrCat(file.path, ": \"", name, "\" of token \"",
                                                     token.content, "\" in \"", key,
                                                     "\" must be true or false"));
    }
    *flag = value->get<bool>();
  }
  return token;
}

absl::StatusOr<SpecialToken> ParseSpecialToken(const Json& json, const File& file,
                                               const std::string& key) {
  SpecialToken special;
  special.only_a_name = json.is_string();
  if (special.only_a_name) {
    special.token.content = json.get<std::string>();
  } else {
    ASSIGN_OR_RETURN(special.token, ParseAddedToken(json, file, key));
  }
  special.token.special = true;
  return special;
}

// The special tokens by role while the files are read; absent differs from null.
struct Roles {
  std::map<std::string, std::optional<SpecialToken>> by_role;
  std::vector<SpecialToken> additional;

  absl::Status Read(const File& file) {
    for (const char* role : kRoles) {
      auto found = file.json.find(role);
      if (found == file.json.end()) continue;
      by_role[role] = std::nullopt;
      if (found->is_null()) continue;
      ASSIGN_OR_RETURN(by_role[role], ParseSpecialToken(*found, file, role));
    }
    const Json* list = file.Find(kAdditional);
    if (list == nullptr) return absl::OkStatus();
    if (!list->is_array()) return file.Error(kAdditional, "a list");
    for (const Json& item : *list) {
      ASSIGN_OR_RETURN(SpecialToken token, ParseSpecialToken(item, file, kAdditional));
      additional.push_back(std::move(token));
    }
    return absl::OkStatus();
  }
};

absl::Status CheckId(int64_t id, const std::string& path) {
  constexpr int64_t kMaxId = 1 << 24;
  if (id >= 0 && id < kMaxId) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": added token with id ", id, ", ids are from 0 to ", kMaxId - 1));
}

// tokenizer_config.json's {"32000": {"content": …}}
absl::Status ReadAddedTokensDecoder(const File& file, TokenizerFiles& files) {
  constexpr char kKey[] = "added_tokens_decoder";
  const Json* decoder = file.Find(kKey);
  if (!decoder->is_object()) return file.Error(kKey, "an object");
  for (const auto& [key, value] : decoder->items()) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path, ": \"", kKey, "\" has the id \"", key, "\", not a number"));
    }
    RETURN_IF_ERROR(CheckId(id, file.path));
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(value, file, kKey));
    files.added_tokens.emplace_back(static_cast<int32_t>(id), std::move(token));
  }
  return absl::OkStatus();
}

// added_tokens.json's {"<sep>": 32000}
absl::Status ReadAddedTokensJson(const File& file, const Roles& roles, TokenizerFiles& files) {
  for (const auto& [content, id] : file.json.items()) {
    if (!id.is_number_integer()) return file.Error(content, "an id");
    RETURN_IF_ERROR(CheckId(id.get<int64_t>(), file.path));
    AddedToken token;
    token.content = content;
    for (const auto& [role, special] : roles.by_role) {
      token.special |= special && special->token.content == content;
    }
    for (const SpecialToken& special : roles.additional) {
      token.special |= special.token.content == content;
    }
    files.added_tokens.emplace_back(id.get<int32_t>(), std::move(token));
  }
  return absl::OkStatus();
}

// tokenizer.json's "added_tokens": [{"id": 32000, "content": …}]
absl::Status ReadTokenizerJson(const File& file, TokenizerFiles& files) {
  const Json* list = file.Find("added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return file.Error("added_tokens", "a list");
  for (const Json& item : *list) {
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(item, file, "added_tokens"));
    auto id = item.find("id");
    if (id == item.end() || !id->is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path, ": added token \"", token.content, "\" has no integer \"id\""));
    }
    RETURN_IF_ERROR(CheckId(id->get<int64_t>(), file.path));
    files.added_tokens.emplace_back(id->get<int32_t>(), std::move(token));
  }
  return absl::OkStatus();
}

// Roles that no file mentions have LLaMA's tokens; those that are only a name take the properties
// of the added token of that name.
void FillRoles(Roles roles, TokenizerFiles& files) {
  const std::pair<const char*, const char*> defaults[] = {
      {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}};
  std::map<std::string, const AddedToken*> added;
  for (const auto& [id, token] : files.added_tokens) added[token.content] = &token;
  for (auto& [role, special] : roles.by_role) {
    if (!special) continue;
    auto same = added.find(special->token.content);
    if (same != added.end()) special->token = *same->second;
    special->token.special = true;
    special->only_a_name = false;
  }
  for (const auto& [role, content] : defaults) {
    SpecialToken special;
    special.token.content = content;
    special.token.special = true;
    roles.by_role.try_emplace(role, special);
  }
  for (const char* role : kRoles) {
    const std::optional<SpecialToken>& special = roles.by_role[role];
    if (special && !special->token.content.empty()) files.special_tokens.push_back(*special);
  }
  for (SpecialToken& special : roles.additional) {
    if (!special.token.content.empty()) files.special_tokens.push_back(std::move(special));
  }
  auto name = [&](const char* role) -> std::optional<std::string> {
    const auto& special = roles.by_role[role];
    return special ? std::optional(special->token.content) : std::nullopt;
  };
  files.bos_token = name("bos_token");
  files.eos_token = name("eos_token");
  files.unk_token = name("unk_token");
}

absl::Status ReadGenerationConfig(const File& file, TokenizerFiles& files) {
  constexpr char kKey[] = "eos_token_id";
  const Json* ids = file.Find(kKey);
  if (ids == nullptr) return absl::OkStatus();
  for (const Json& id : ids->is_array() ? *ids : Json::array({*ids})) {
    if (!id.is_number_integer()) return file.Error(kKey, "an id or a list of ids");
    files.eos_token_ids.push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

// A string, or [{"name": "default", "template": …}, …].
absl::Status ReadChatTemplate(const std::string& folder, const File& config,
                              TokenizerFiles& files) {
  std::string path = folder + "/chat_template.jinja";
  ASSIGN_OR_RETURN(const bool has_file, PathExists(path));
  if (has_file) {
    ASSIGN_OR_RETURN(files.chat_template, ReadFile(path));
    return absl::OkStatus();
  }
  constexpr char kKey[] = "chat_template";
  const Json* value = config.Find(kKey);
  if (value == nullptr) return absl::OkStatus();
  if (value->is_string()) {
    files.chat_template = value->get<std::string>();
    return absl::OkStatus();
  }
  if (!value->is_array()) return config.Error(kKey, "a string or a list");
  for (const Json& item : *value) {
    if (!item.is_object() || item.value("name", Json()) != "default") continue;
    Json text = item.value("template", Json());
    if (text.is_string()) files.chat_template = text.get<std::string>();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  return ReadRegularFile(path, kMaxFileBytes);
}

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& folder) {
  TokenizerFiles files;
  ASSIGN_OR_RETURN(File config, ReadObject(folder, "tokenizer_config.json"));
  RETURN_IF_ERROR(ReadBool(config, "legacy", files.legacy));
  RETURN_IF_ERROR(ReadBool(config, "add_prefix_space", files.add_prefix_space));
  RETURN_IF_ERROR(ReadBool(config, "add_bos_token", files.add_bos_token));
  RETURN_IF_ERROR(ReadBool(config, "add_eos_token", files.add_eos_token));
  Roles roles;
  RETURN_IF_ERROR(roles.Read(config));
  if (config.Find("added_tokens_decoder") != nullptr) {
    RETURN_IF_ERROR(ReadAddedTokensDecoder(config, files));
  } else {
    ASSIGN_OR_RETURN(File special_tokens_map, ReadObject(folder, "special_tokens_map.json"));
    RETURN_IF_ERROR(roles.Read(special_tokens_map));
    ASSIGN_OR_RETURN(File added_tokens, ReadObject(folder, "added_tokens.json"));
    RETURN_IF_ERROR(ReadAddedTokensJson(added_tokens, roles, files));
    ASSIGN_OR_RETURN(File tokenizer, ReadObject(folder, "tokenizer.json"));
    RETURN_IF_ERROR(ReadTokenizerJson(tokenizer, files));
  }
  FillRoles(std::move(roles), files);
  ASSIGN_OR_RETURN(File generation_config, ReadObject(folder, "generation_config.json"));
  RETURN_IF_ERROR(ReadGenerationConfig(generation_config, files));
  RETURN_IF_ERROR(ReadChatTemplate(folder, config, files));
  return files;
}

}  // namespace caravan
