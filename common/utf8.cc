#include "common/utf8.h"

#include <cstring>

namespace caravan {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// What must follow a first byte: the number of bytes (0: it is no first byte of more than one) and
// the range of the next one.
struct Continuation {
  uint8_t num_bytes;
  unsigned char lowest;
  unsigned char highest;
};

Continuation After(unsigned char lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    if (i + 8 <= text.size()) {
      uint64_t word;
      std::memcpy(&word, bytes + i, 8);
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    if (bytes[i] < 0x80) {
      ++i;
      continue;
    }
    Continuation next = After(bytes[i]);
    if (next.num_bytes == 0 || i + next.num_bytes >= text.size()) return i;
    if (bytes[i + 1] < next.lowest || bytes[i + 1] > next.highest) return i;
    for (int k = 2; k <= next.num_bytes; ++k) {
      if ((bytes[i + k] & 0xC0) != 0x80) return i;
    }
    i += next.num_bytes + 1;
  }
  return std::string_view::npos;
}

size_t Utf8Length(char lead) {
  auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

std::vector<Utf8Character> Utf8Characters(std::string_view text) {
  std::vector<Utf8Character> characters;
  characters.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    size_t length = Utf8Length(text[i]);
    auto byte = static_cast<unsigned char>(text[i]);
    char32_t code_point = length == 1 ? byte : byte & (0xFF >> (length + 1));
    for (size_t k = 1; k < length; ++k) code_point = code_point << 6 | (text[i + k] & 0x3F);
    characters.push_back({code_point, static_cast<uint32_t>(i)});
    i += length;
  }
  return characters;
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string_view StripLeft(std::string_view text) {
  while (!text.empty()) {
    size_t length = Utf8Length(text.front());
    if (!IsSpace(Utf8Characters(text.substr(0, length)).front().code_point)) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while ((text[begin] & 0xC0) == 0x80) --begin;
    if (!IsSpace(Utf8Characters(text.substr(begin)).front().code_point)) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

void Utf8Assembler::Append(std::string_view bytes, std::string& out) {
  for (char byte : bytes) Add(static_cast<unsigned char>(byte), out);
}

void Utf8Assembler::Add(unsigned char byte, std::string& out) {
  if (num_missing_ > 0) {
    if (byte >= lowest_ && byte <= highest_) {
      held_[num_held_++] = static_cast<char>(byte);
      lowest_ = 0x80;
      highest_ = 0xBF;
      if (--num_missing_ == 0) {
        out.append(held_, num_held_);
        num_held_ = 0;
      }
      return;
    }
    Flush(out);
  }
  if (byte < 0x80) {
    out.push_back(static_cast<char>(byte));
    return;
  }
  Continuation next = After(byte);
  if (next.num_bytes == 0) {
    out.append(kReplacement);
    return;
  }
  held_[num_held_++] = static_cast<char>(byte);
  num_missing_ = next.num_bytes;
  lowest_ = next.lowest;
  highest_ = next.highest;
}

void Utf8Assembler::Flush(std::string& out) {
  if (num_held_ > 0) out.append(kReplacement);
  num_held_ = 0;
  num_missing_ = 0;
}

}  // namespace caravan
