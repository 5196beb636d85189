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
      {{"trace_level", {"TIMESTAMPS", "TENSORS"}}, {"trace_rate", {"1"}}}, defaults, defaults);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_TRUE(changed->enabled());
  EXPECT_TRUE(changed->tensors);
  EXPECT_EQ(changed->rate, 1u);
  EXPECT_EQ(changed->count, -1);
  const auto cleared =
      TraceSettings::Apply({{"trace_level", {}}, {"trace_rate", {}}}, defaults, *changed);
  ASSERT_TRUE(cleared.ok());
  EXPECT_EQ(cleared->ToValues(), defaults.ToValues());
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
    const auto changed = TraceSettings::Apply({{name, values}}, defaults, defaults);
    ASSERT_FALSE(changed.ok()) << name;
    EXPECT_NE(changed.status().message().find(name), std::string::npos);
  }
  EXPECT_EQ(
      TraceSettings::Apply({{"trace_file", {"/etc/passwd"}}}, defaults, defaults).status().code(),
      absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(TraceSettings::Apply({{"trace_level", {"TENSORS"}}}, {}, {}).ok()) << "no file";
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
  EXPECT_EQ(LogSettings::Apply({{"log_file", std::string("/x")}}, {}).status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace caravan
