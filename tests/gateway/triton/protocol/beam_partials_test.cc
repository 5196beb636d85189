#include "gateway/triton/protocol/beam_partials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caravan {
namespace {

using testing::ElementsAre;

BeamsAtStep At(int32_t steps, int32_t token) {
  BeamsAtStep at;
  at.steps = steps;
  at.beams.resize(2);
  for (OutputSequence& beam : at.beams) beam.token_ids.assign(static_cast<size_t>(steps), token);
  return at;
}

class BeamPartialsTest : public testing::Test {
 protected:
  BeamPartialsTest() {
    output_.AddRow({{1, 2}, 50, 0});
    output_.AddRow({{1}, 50, 0});
  }

  // The first token and the number of tokens of each row's first beam; empty: there is none.
  std::vector<std::pair<int32_t, size_t>> Next() {
    std::vector<std::pair<int32_t, size_t>> rows;
    const std::optional<BeamsAtStep> next = partials_.Next(&output_);
    if (!next.has_value()) return rows;
    EXPECT_EQ(next->beams.size(), 4u);
    for (size_t i = 0; i < next->beams.size(); i += 2) {
      rows.emplace_back(next->beams[i].token_ids.at(0), next->beams[i].token_ids.size());
    }
    return rows;
  }
  void End(size_t row, int32_t steps, int32_t token) {
    const BeamsAtStep at = At(steps, token);
    for (size_t beam = 0; beam < 2; ++beam) {
      output_.sequence(row * 2 + beam) = at.beams[beam];
      output_.sequence(row * 2 + beam).ended = true;
    }
  }

  BatchOutput output_{2, {}};
  BeamPartials partials_{2, 2};
};

using Row = std::pair<int32_t, size_t>;

TEST_F(BeamPartialsTest, ComeWhenAllRowsHaveShownAsMuch) {
  partials_.Add(0, At(3, 10));
  partials_.Add(0, At(8, 11));
  EXPECT_THAT(Next(), ElementsAre());
  partials_.Add(1, At(3, 20));
  EXPECT_THAT(Next(), ElementsAre(Row(10, 3), Row(20, 3)));
  EXPECT_THAT(Next(), ElementsAre());
  partials_.Add(1, At(8, 21));
  EXPECT_THAT(Next(), ElementsAre(Row(11, 8), Row(21, 8)));
}

TEST_F(BeamPartialsTest, ARowThatHasEndedShowsItsEnd) {
  partials_.Add(0, At(3, 10));
  partials_.Add(1, At(3, 20));
  End(1, 5, 29);
  EXPECT_THAT(Next(), ElementsAre(Row(10, 3), Row(20, 3)));  // it had not ended then
  partials_.Add(0, At(8, 11));
  EXPECT_THAT(Next(), ElementsAre(Row(11, 8), Row(29, 5)));
  End(0, 9, 19);
  EXPECT_THAT(Next(), ElementsAre());
}

TEST_F(BeamPartialsTest, ASearchThatBeginsAgainShowsNothingTwice) {
  partials_.Add(0, At(3, 10));
  partials_.Add(1, At(3, 20));
  EXPECT_THAT(Next(), ElementsAre(Row(10, 3), Row(20, 3)));
  partials_.Add(0, At(3, 10));
  partials_.Add(1, At(3, 20));
  EXPECT_THAT(Next(), ElementsAre());
}

TEST_F(BeamPartialsTest, ARowFarAheadLosesItsOldest) {
  for (int32_t steps = 1000; steps <= 100000; steps += 1000) partials_.Add(0, At(steps, 10));
  partials_.Add(1, At(1000, 20));
  EXPECT_THAT(Next(), ElementsAre()) << "of that step the other row has nothing any more";
  partials_.Add(1, At(100000, 21));
  EXPECT_THAT(Next(), ElementsAre(Row(10, 100000), Row(21, 100000)));
}

}  // namespace
}  // namespace caravan
