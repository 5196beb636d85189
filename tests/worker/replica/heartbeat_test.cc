#include "worker/replica/heartbeat.h"

#include <gtest/gtest.h>

namespace caravan {
namespace {

TEST(HeartbeatInterval, FitsTenTimesIntoTheTimeoutAndIntoASecond) {
  EXPECT_EQ(HeartbeatInterval(absl::Milliseconds(300)), absl::Milliseconds(30));
  EXPECT_EQ(HeartbeatInterval(absl::Seconds(5)), absl::Milliseconds(100));
}

TEST(TurnClock, ForgivesOnlyTheTimeInWhichItsOwnThreadDidNotTurn) {
  const absl::Duration interval = absl::Milliseconds(100);
  TurnClock clock(interval);
  absl::Time now = absl::Now() + absl::Seconds(9);
  EXPECT_GT(clock.Late(now), absl::Seconds(8));
  for (int turn = 0; turn < 50; ++turn) {  // a silence of 5 s at a steady pace is silence
    now += interval + absl::Milliseconds(turn);
    EXPECT_EQ(clock.Late(now), absl::ZeroDuration());
  }
  now += absl::Seconds(4);
  EXPECT_EQ(clock.Late(now), absl::Seconds(4) - 2 * interval);
  EXPECT_EQ(clock.Late(now - absl::Hours(1)), absl::ZeroDuration());  // a clock set back
}

}  // namespace
}  // namespace caravan
