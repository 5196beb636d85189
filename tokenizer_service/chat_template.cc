#include "tokenizer_service/chat_template.h"

#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

class PromptBuilder {
 public:
  explicit PromptBuilder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  void AddText(std::string_view text) {
    prompt_.text += text;
    if (prompt_.parts.empty() || prompt_.parts.back().special_id >= 0) prompt_.parts.emplace_back();
    prompt_.parts.back().text += text;
  }

  // No effect for -1, a model without that token.
  void AddSpecial(int32_t id) {
    if (id < 0) return;
    prompt_.text += vocabulary_.tokens[id].bytes;
    prompt_.parts.push_back({"", id});
  }

  ChatPrompt Take(std::vector<std::string> stop_strings) {
    prompt_.stop_strings = std::move(stop_strings);
    return std::move(prompt_);
  }

 private:
  const Vocabulary& vocabulary_;
  ChatPrompt prompt_;
};

// All templates take the spaces around a content away, as the models' own do.
std::string Strip(std::string_view text) { return std::string(StripLeft(StripRight(text))); }

absl::Status CheckTurns(absl::Span<const ChatTurn> turns) {
  if (turns.empty()) return absl::InvalidArgumentError("messages: there must be at least one");
  for (size_t i = 0; i < turns.size(); ++i) {
    const ChatTurn& turn = turns[i];
    if (turn.role != "system" && turn.role != "user" && turn.role != "assistant") {
      std::string role = FindInvalidUtf8(turn.role) == std::string::npos ? turn.role : "not UTF-8";
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is \"",
                                                     role.substr(0, 64),
                                                     "\", it must be system, user or assistant"));
    }
    if (size_t at = FindInvalidUtf8(turn.content); at != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "].content: not UTF-8 at byte ", at));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ChatPrompt> ApplyLlama2(absl::Span<const ChatTurn> turns,
                                       const Vocabulary& vocabulary) {
  size_t first = turns[0].role == "system" ? 1 : 0;
  if (first == turns.size()) {
    return absl::InvalidArgumentError("messages: llama2 needs a user message after the system one");
  }
  int32_t eos_id = vocabulary.eos_ids.empty() ? -1 : vocabulary.eos_ids.front();
  PromptBuilder prompt(vocabulary);
  for (size_t i = first; i < turns.size(); ++i) {
    bool is_user = (i - first) % 2 == 0;
    if (turns[i].role != (is_user ? "user" : "assistant")) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "].role is ", turns[i].role,
                                                     ", llama2 takes user and assistant in turn ",
                                                     "(user first, a system message before it)"));
    }
    if (!is_user) {
      prompt.AddText(absl::StrCat(" ", Strip(turns[i].content), " "));
      prompt.AddSpecial(eos_id);
      continue;
    }
    std::string system;
    if (i == first && first == 1) {
      system = absl::StrCat("<<SYS>>\n", turns[0].content, "\n<</SYS>>\n\n");
    }
    prompt.AddSpecial(vocabulary.bos_id);
    prompt.AddText(absl::StrCat("[INST] ", Strip(system + turns[i].content), " [/INST]"));
  }
  return prompt.Take({});
}

absl::StatusOr<ChatPrompt> ApplyLlama3(absl::Span<const ChatTurn> turns, bool add_generation_prompt,
                                       const Vocabulary& vocabulary) {
  int32_t begin = -1;
  int32_t start_header = -1;
  int32_t end_header = -1;
  int32_t end_of_turn = -1;
  const std::pair<const char*, int32_t*> needed[] = {{"<|begin_of_text|>", &begin},
                                                     {"<|start_header_id|>", &start_header},
                                                     {"<|end_header_id|>", &end_header},
                                                     {"<|eot_id|>", &end_of_turn}};
  for (const auto& [name, id] : needed) {
    *id = vocabulary.SpecialId(name);
    if (*id >= 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("format llama3 needs the special token ", name,
                     ", which this model's vocabulary has not; choose another format"));
  }
  PromptBuilder prompt(vocabulary);
  auto add_header = [&](const std::string& role) {
    prompt.AddSpecial(start_header);
    prompt.AddText(role);
    prompt.AddSpecial(end_header);
    prompt.AddText("\n\n");
  };
  prompt.AddSpecial(begin);
  for (const ChatTurn& turn : turns) {
    add_header(turn.role);
    prompt.AddText(Strip(turn.content));
    prompt.AddSpecial(end_of_turn);
  }
  if (add_generation_prompt) add_header("assistant");
  return prompt.Take({});
}

ChatPrompt ApplyPlain(absl::Span<const ChatTurn> turns, bool add_generation_prompt,
                      const Vocabulary& vocabulary) {
  PromptBuilder prompt(vocabulary);
  prompt.AddSpecial(vocabulary.bos_id);
  for (const ChatTurn& turn : turns) {
    const char* name = turn.role == "system" ? "System"
                       : turn.role == "user" ? "User"
                                             : "Assistant";
    prompt.AddText(absl::StrCat(name, ": ", Strip(turn.content), "\n"));
  }
  if (add_generation_prompt) prompt.AddText("Assistant:");
  return prompt.Take({"\nUser:", "\nSystem:"});
}

}  // namespace

absl::StatusOr<ChatFormat> ParseChatFormat(std::string_view name) {
  if (name == "llama2") return ChatFormat::kLlama2;
  if (name == "llama3") return ChatFormat::kLlama3;
  if (name == "plain") return ChatFormat::kPlain;
  return absl::InvalidArgumentError(absl::StrCat("chat format \"", std::string(name.substr(0, 64)),
                                                 "\" is unknown; there are auto, llama2, llama3 "
                                                 "and plain"));
}

absl::StatusOr<ChatFormat> DetectChatFormat(std::string_view jinja) {
  if (jinja.empty()) return ChatFormat::kPlain;
  auto has = [&](std::string_view part) { return jinja.find(part) != std::string_view::npos; };
  if (has("<|start_header_id|>")) return ChatFormat::kLlama3;
  // LLaMA 2's, with system messages or without: a BOS opens each turn, unlike in Mistral's [INST].
  if (has("[INST]") && (has("<<SYS>>") || has("bos_token + '[INST] '"))) return ChatFormat::kLlama2;
  return absl::FailedPreconditionError(
      "this model's chat template (Jinja) is none that Caravan knows; name one of llama2, llama3 "
      "and plain in the request's format, or start the tokenizer with --chat_format");
}

absl::StatusOr<ChatPrompt> ApplyChatFormat(ChatFormat format, absl::Span<const ChatTurn> turns,
                                           bool add_generation_prompt,
                                           const Vocabulary& vocabulary) {
  RETURN_IF_ERROR(CheckTurns(turns));
  switch (format) {
    case ChatFormat::kLlama2:  // the closing [/INST] is the generation prompt
      return ApplyLlama2(turns, vocabulary);
    case ChatFormat::kLlama3:
      return ApplyLlama3(turns, add_generation_prompt, vocabulary);
    case ChatFormat::kPlain:
      break;
  }
  return ApplyPlain(turns, add_generation_prompt, vocabulary);
}

}  // namespace caravan
