#include "gateway/generation/stop_strings.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace caravan {
namespace {

// What the contract says, letter by letter: the first end wins, then the longest.
struct Expected {
  std::string released;
  int matched = -1;
};
Expected Naive(const std::string& text, const std::vector<std::string>& stops,
               const std::vector<bool>& ignored) {
  for (size_t end = 1; end <= text.size(); ++end) {
    if (ignored[end - 1]) continue;
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (!text.substr(0, end).ends_with(stops[i])) continue;
      if (best < 0 || stops[i].size() > stops[best].size()) best = static_cast<int>(i);
    }
    if (best >= 0) return {text.substr(0, end - stops[best].size()), best};
  }
  return {text, -1};
}

TEST(StopStringMatcher, AgreesWithANaiveSearchHoweverTheTextIsCut) {
  std::mt19937 random(20240517);
  const auto draw = [&](int most) { return static_cast<int>(random() % (most + 1)); };
  const auto word = [&](int least, int most) {
    std::string text;
    const int size = least + draw(most - least);
    for (int i = 0; i < size; ++i) text.push_back(static_cast<char>('a' + draw(1)));
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (int i = draw(3); i >= 0; --i) stops.push_back(word(1, 5));
    const std::string text = word(0, 24);
    std::vector<bool> ignored(text.size());
    StopStringMatcher matcher(stops);
    StopStringMatcher::Result result;
    std::string released;
    size_t longest = 0;
    for (const std::string& stop : stops) longest = std::max(longest, stop.size());
    for (size_t begin = 0; begin < text.size() && result.matched < 0;) {
      const size_t size = std::min<size_t>(text.size() - begin, static_cast<size_t>(draw(4)));
      const bool ignore = draw(3) == 0;
      for (size_t i = begin; i < begin + size; ++i) ignored[i] = ignore;
      result = matcher.Feed(text.substr(begin, size), ignore);
      released += result.released;
      begin += size;
      if (result.matched < 0) {
        ASSERT_LT(begin - released.size(), longest) << "held back more than can match";
      }
    }
    if (result.matched < 0) released += matcher.Flush();
    const Expected expected = Naive(text, stops, ignored);
    ASSERT_EQ(released, expected.released) << text << " round " << round;
    ASSERT_EQ(result.matched < 0, expected.matched < 0) << text << " round " << round;
    if (expected.matched >= 0) {
      ASSERT_EQ(matcher.stop_string(result.matched), stops[expected.matched]);
    }
  }
}

TEST(StopStringMatcher, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopStringMatcher matcher({"\n\nUser:"});
  EXPECT_EQ(matcher.Feed("one\n").released, "one");
  EXPECT_EQ(matcher.Feed("two").released, "\ntwo");
  EXPECT_EQ(matcher.Feed("\n\n").released, "");
  EXPECT_EQ(matcher.Feed("\n").released, "\n");
  EXPECT_EQ(matcher.Feed("User").released, "");
  const StopStringMatcher::Result result = matcher.Feed(": hello");
  EXPECT_EQ(result.released, "");
  EXPECT_EQ(result.matched, 0);
}

TEST(StopStringMatcher, ReleasesWholeCharactersOfMultibyteText) {
  StopStringMatcher matcher({"\xc3\xa9t\xc3\xa9"});  // "été"
  EXPECT_EQ(matcher.Feed("caf\xc3\xa9").released, "caf");
  EXPECT_EQ(matcher.Feed("\xc3\xa8").released, "\xc3\xa9\xc3\xa8");  // è shares é's first byte only
}

TEST(StopStringMatcher, WithoutStopStringsHoldsNothing) {
  StopStringMatcher matcher({});
  EXPECT_EQ(matcher.Feed("anything").released, "anything");
  EXPECT_EQ(matcher.Flush(), "");
}

}  // namespace
}  // namespace caravan
