#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() {
    options_.Add("name", &name_, "a text");
    options_.Add("count", &count_, "a number");
    options_.Add("share", &share_, "a fraction");
    options_.Add("retry", &retry_, "a switch");
    options_.Add("seed", &seed_, "no default");
    options_.Add("stop", &stop_, "repeatable");
  }

  std::string ErrorOf(const std::vector<std::string>& words) {
    return std::string(options_.Parse(words).status().message());
  }

  std::string name_ = "none";
  int64_t count_ = 7;
  double share_ = 0.5;
  bool retry_ = true;
  std::optional<uint64_t> seed_;
  std::vector<std::string> stop_;
  Options options_{"test", "[WORD]", "Tests."};
};

TEST_F(OptionsTest, TakesValuesAfterAnEqualsSignOrAsTheNextWord) {
  const auto arguments = options_.Parse(
      {"--name=a=b", "--count", "-3", "word", "--share=0.25", "--seed", "18446744073709551615"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_THAT(*arguments, ElementsAre("word"));
  EXPECT_EQ(name_, "a=b");
  EXPECT_EQ(count_, -3);
  EXPECT_EQ(share_, 0.25);
  EXPECT_EQ(seed_, 18446744073709551615u);
}

TEST_F(OptionsTest, KeepsDefaultsOfOptionsNotGiven) {
  ASSERT_TRUE(options_.Parse({}).ok());
  EXPECT_EQ(name_, "none");
  EXPECT_EQ(count_, 7);
  EXPECT_FALSE(seed_.has_value());
}

TEST_F(OptionsTest, NegatesSwitchesByNo) {
  ASSERT_TRUE(options_.Parse({"--noretry"}).ok());
  EXPECT_FALSE(retry_);
  ASSERT_TRUE(options_.Parse({"--retry"}).ok());
  EXPECT_TRUE(retry_);
  ASSERT_TRUE(options_.Parse({"--retry=false"}).ok());
  EXPECT_FALSE(retry_);
}

TEST_F(OptionsTest, CollectsRepeatedOptions) {
  ASSERT_TRUE(options_.Parse({"--stop=a", "--stop", "b"}).ok());
  EXPECT_THAT(stop_, ElementsAre("a", "b"));
}

TEST_F(OptionsTest, TakesEverythingAfterTwoDashesAsArguments) {
  const auto arguments = options_.Parse({"--", "--name=x", "--"});
  ASSERT_TRUE(arguments.ok());
  EXPECT_THAT(*arguments, ElementsAre("--name=x", "--"));
  EXPECT_EQ(name_, "none");
}

TEST_F(OptionsTest, NamesTheOptionThatIsWrong) {
  EXPECT_THAT(ErrorOf({"--cuont=1"}), HasSubstr("--cuont"));
  EXPECT_THAT(ErrorOf({"--count=1.5"}), HasSubstr("--count is '1.5'; it must be a whole number"));
  EXPECT_THAT(ErrorOf({"--seed=-1"}), HasSubstr("from 0"));
  EXPECT_THAT(ErrorOf({"--share=much"}), HasSubstr("a number"));
  EXPECT_THAT(ErrorOf({"--retry=maybe"}), HasSubstr("true or false"));
  EXPECT_THAT(ErrorOf({"--name"}), HasSubstr("--name needs a value"));
}

TEST_F(OptionsTest, RefusesArgumentsWhereNoneAreTaken) {
  Options options("status", "", "Shows.");
  EXPECT_THAT(std::string(options.Parse({"now"}).status().message()),
              HasSubstr("unexpected argument 'now'"));
}

TEST_F(OptionsTest, HelpShowsEachOptionWithItsDefault) {
  const std::string help = options_.Help();
  EXPECT_THAT(help, HasSubstr("caravan test [WORD] [options]"));
  EXPECT_THAT(help, HasSubstr("--count=N"));
  EXPECT_THAT(help, HasSubstr("(default 7)"));
  EXPECT_THAT(help, HasSubstr("(default none)"));
}

}  // namespace
}  // namespace caravan
