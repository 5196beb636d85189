#include "gateway/triton/settings.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

TraceSettings WithFile() {
  TraceSettings settings;
  settings.file = "/tmp/trace.json";
  return settings;
}

TEST(TraceSettings, ChangesWhatIsNamedAndKeepsTheRest) {
  const TraceSettings defaults = WithFile();
  const auto changed = TraceSettings::Apply(
      {{"trace_level", {"TIMESTAMPS", "TENSORS"}}, {"trace_rate", {"1"}}}, defaults);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_TRUE(changed->enabled());
  EXPECT_TRUE(changed->tensors);
  EXPECT_EQ(changed->rate, 1u);
  EXPECT_EQ(changed->count, -1);
}

TEST(TraceScope, FollowsTheScopeAboveInWhatItDoesNotName) {
  const TraceSettings flags = WithFile();
  TraceScope global(flags);
  ASSERT_TRUE(global.Change({{"trace_rate", {"7"}}, {"log_frequency", {"3"}}}, flags).ok());
  TraceScope model(global.settings());
  ASSERT_TRUE(model.Change({{"trace_level", {"TENSORS"}}}, global.settings()).ok());
  EXPECT_EQ(model.settings().rate, 7u);
  ASSERT_TRUE(global.Change({{"trace_rate", {"9"}}}, flags).ok());
  model.Follow(global.settings());
  EXPECT_EQ(model.settings().rate, 9u) << "it never named a rate";
  EXPECT_TRUE(model.settings().tensors);
  // Cleared: the model's level is that of all, whose rate is that of the flags.
  ASSERT_TRUE(model.Change({{"trace_level", {}}, {"trace_count", {}}}, global.settings()).ok());
  EXPECT_FALSE(model.has_own());
  EXPECT_EQ(model.settings().ToValues(), global.settings().ToValues());
  ASSERT_TRUE(global.Change({{"trace_rate", {}}}, flags).ok());
  EXPECT_EQ(global.settings().rate, flags.rate);
  EXPECT_EQ(global.settings().log_frequency, 3u) << "only the rate was cleared";
}

TEST(TraceScope, WhatIsLeftOfACountStaysWhenSomethingElseChanges) {
  const TraceSettings flags = WithFile();
  TraceScope scope(flags);
  const TraceSettingValues changes = {
      {"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"2"}}, {"trace_count", {"3"}}};
  ASSERT_TRUE(scope.Change(changes, flags).ok());
  EXPECT_TRUE(scope.Sample());
  EXPECT_FALSE(scope.Sample()) << "every second one";
  EXPECT_TRUE(scope.Sample());
  ASSERT_TRUE(scope.Change({{"trace_rate", {"1"}}}, flags).ok());
  EXPECT_EQ(scope.settings().count, 1);
  EXPECT_TRUE(scope.Sample());
  EXPECT_FALSE(scope.Sample());
  EXPECT_FALSE(scope.Change({{"trace_rate", {"0"}}, {"trace_count", {"5"}}}, flags).ok());
  EXPECT_EQ(scope.settings().count, 0) << "a change with a fault changes nothing";
}

TEST(TraceSettings, NamesWhatIsWrong) {
  const TraceSettings defaults = WithFile();
  const std::vector<std::pair<std::string, std::vector<std::string>>> wrong = {
      {"trace_level", {"OFF", "TENSORS"}},
      {"trace_level", {"LOUD"}},
      {"trace_rate", {"0"}},
      {"trace_rate", {"x"}},
      {"trace_rate", {"1", "2"}},
      {"trace_count", {"-2"}},
      {"log_frequency", {"-1"}},
      {"trace_colour", {"red"}}};
  for (const auto& [name, values] : wrong) {
    const auto changed = TraceSettings::Apply({{name, values}}, defaults);
    ASSERT_FALSE(changed.ok()) << name;
    EXPECT_NE(changed.status().message().find(name), std::string::npos);
  }
  EXPECT_EQ(TraceSettings::Apply({{"trace_file", {"/etc/passwd"}}}, defaults).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(TraceSettings::Apply({{"trace_level", {"TENSORS"}}}, {}).ok()) << "no file";
  TraceScope scope(defaults);
  EXPECT_FALSE(scope.Change({{"trace_colour", {}}}, defaults).ok()) << "there is none to clear";
}

TEST(LogSettings, ChangesAndNamesWhatIsWrong) {
  const auto changed =
      LogSettings::Apply({{"log_info", false}, {"log_verbose_level", uint32_t{2}}}, {});
  ASSERT_TRUE(changed.ok());
  EXPECT_FALSE(changed->info);
  EXPECT_EQ(std::get<uint32_t>(changed->ToValues().at("log_verbose_level")), 2u);
  EXPECT_FALSE(LogSettings::Apply({{"log_info", std::string("no")}}, {}).ok());
  EXPECT_FALSE(LogSettings::Apply({{"log_format", std::string("csv")}}, {}).ok());
  EXPECT_FALSE(LogSettings::Apply({{"log_colour", true}}, {}).ok());
  EXPECT_TRUE(LogSettings::Apply({{"log_file", std::string()}}, {}).ok()) << "as it is";
  EXPECT_EQ(LogSettings::Apply({{"log_file", std::string("/x")}}, {}).status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace caravan
