// The text of a conversation, in the format that a model was trained on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tokenizer_service/tokenizer.h"

namespace caravan {

struct ChatTurn {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

enum class ChatFormat : uint8_t {
  kLlama2,  // <s>[INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] assistant </s><s>[INST] …
  kLlama3,  // <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\ntext<|eot_id|>…
  kPlain,   // a transcript for models without a format: System:, User:, Assistant:
};

// "llama2", "llama3", "plain"; INVALID_ARGUMENT for any other name.
absl::StatusOr<ChatFormat> ParseChatFormat(std::string_view name);

// The format of a model by the Jinja text in its folder; plain where there is none.
// FAILED_PRECONDITION for a text that is none of the known ones.
absl::StatusOr<ChatFormat> DetectChatFormat(std::string_view jinja);

struct ChatPrompt {
  std::vector<TextPart> parts;  // special tokens by id; what turns hold is always plain text
  std::string text;             // the same, special tokens by name
  std::vector<std::string> stop_strings;  // that end the assistant's turn, where no token does
};

// INVALID_ARGUMENT names the message that does not fit (an unknown role, a wrong order);
// FAILED_PRECONDITION where the vocabulary lacks a token of the format.
absl::StatusOr<ChatPrompt> ApplyChatFormat(ChatFormat format, absl::Span<const ChatTurn> turns,
                                           bool add_generation_prompt,
                                           const Vocabulary& vocabulary);

}  // namespace caravan
