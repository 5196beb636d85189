// UTF-8: checking it, and putting characters together from bytes that arrive in pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace caravan {

// Offset of the first byte that no well-formed character (Unicode 15, table 3-7: no surrogates, no
// overlong forms, at most U+10FFFF) covers; npos where all of `text` is well-formed.
size_t FindInvalidUtf8(std::string_view text);

// One character of well-formed UTF-8 and where it begins.
struct Utf8Character {
  char32_t code_point;
  uint32_t offset;
};

// The characters of well-formed UTF-8 shorter than 4 GiB.
std::vector<Utf8Character> Utf8Characters(std::string_view text);

// The length of the character whose first byte is `lead`, in well-formed UTF-8.
size_t Utf8Length(char lead);

// What Python's str.isspace says.
bool IsSpace(char32_t code_point);

// `text` without the spaces (IsSpace) at its start or its end. Well-formed UTF-8 only.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);

// Turns bytes that arrive in any pieces into well-formed UTF-8. Holds back the start of a character
// (at most 3 bytes) until the rest has come; an ill-formed sequence becomes one U+FFFD for each
// "maximal subpart", as in the WHATWG decoder and Python's errors="replace", as soon as it is
// certain. The output doesn't depend on how the input was cut.
class Utf8Assembler {
 public:
  // Appends to `out` all characters that `bytes` completes.
  void Append(std::string_view bytes, std::string& out);
  // The input ends here: what is held back becomes U+FFFD.
  void Flush(std::string& out);
  size_t num_held() const { return num_held_; }

 private:
  void Add(unsigned char byte, std::string& out);

  char held_[4] = {};
  uint8_t num_held_ = 0;
  uint8_t num_missing_ = 0;
  unsigned char lowest_ = 0x80;  // of the next byte
  unsigned char highest_ = 0xBF;
};

}  // namespace caravan
