#include "gateway/generation/stop_strings.h"

#include <algorithm>
#include <utility>

namespace caravan {
namespace {

std::vector<size_t> Borders(const std::string& text) {
  std::vector<size_t> borders(text.size() + 1, 0);
  size_t border = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (border > 0 && text[i] != text[border]) border = borders[border];
    if (text[i] == text[border]) ++border;
    borders[i + 1] = border;
  }
  return borders;
}

}  // namespace

StopStringMatcher::StopStringMatcher(std::vector<std::string> stop_strings) {
  for (std::string& text : stop_strings) {
    std::vector<size_t> borders = Borders(text);
    patterns_.push_back({std::move(text), std::move(borders), 0});
  }
}

bool StopStringMatcher::Advance(Pattern* pattern, char byte) {
  size_t& state = pattern->state;
  if (state == pattern->text.size()) state = pattern->borders[state];
  while (state > 0 && pattern->text[state] != byte) state = pattern->borders[state];
  if (pattern->text[state] == byte) ++state;
  return state == pattern->text.size();
}

StopStringMatcher::Result StopStringMatcher::Feed(std::string_view piece, bool ignore_matches) {
  Result result;
  if (patterns_.empty()) {
    result.released = piece;
    return result;
  }
  for (const char byte : piece) {
    held_.push_back(byte);
    for (size_t i = 0; i < patterns_.size(); ++i) {
      if (!Advance(&patterns_[i], byte) || ignore_matches) continue;
      const bool longest =
          result.matched < 0 || patterns_[i].text.size() > patterns_[result.matched].text.size();
      if (longest) result.matched = static_cast<int>(i);
    }
    if (result.matched >= 0) {
      held_.resize(held_.size() - patterns_[result.matched].text.size());
      result.released = std::exchange(held_, {});
      return result;
    }
  }
  size_t possible = 0;
  for (const Pattern& pattern : patterns_) {
    // A whole match that was ignored can only go on as its own border.
    const bool whole = pattern.state == pattern.text.size();
    possible = std::max(possible, whole ? pattern.borders[pattern.state] : pattern.state);
  }
  result.released = held_.substr(0, held_.size() - possible);
  held_.erase(0, held_.size() - possible);
  return result;
}

std::string StopStringMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace caravan
