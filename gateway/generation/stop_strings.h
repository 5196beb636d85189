// Finds stop strings in a text that comes in pieces, and holds back what may become one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace caravan {

// The result does not depend on how the text is cut into pieces: the first byte that completes a
// stop string decides, and of several completed by that byte the longest. All of the text is
// released as soon as it can't be part of a match any more: at most the longest stop string less
// one byte is held back. Held text begins where a stop string begins, so pieces that are valid
// UTF-8 give releases that are valid UTF-8.
class StopStringMatcher {
 public:
  explicit StopStringMatcher(std::vector<std::string> stop_strings);

  struct Result {
    std::string released;  // text that can be delivered, before the match if there is one
    int matched = -1;      // index of the stop string, -1 none. After a match feed no more.
  };

  // `ignore_matches`: a stop string completed in this piece does not count (min_tokens); its text
  // is released like any other.
  Result Feed(std::string_view piece, bool ignore_matches = false);

  // The end of the text: what was held back.
  std::string Flush();
  // What Flush would give.
  const std::string& held() const { return held_; }

  const std::string& stop_string(int index) const { return patterns_[index].text; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> borders;  // Knuth-Morris-Pratt: borders[i] of the first i bytes
    size_t state = 0;             // bytes matched so far
  };

  // One byte further; true where the pattern is complete.
  static bool Advance(Pattern* pattern, char byte);

  std::vector<Pattern> patterns_;
  std::string held_;
};

}  // namespace caravan
