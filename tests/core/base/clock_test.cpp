#include "core/base/clock.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Deadline, OfTheLongestLimitsIsFarAway) {
  for (const Duration limit : {Duration::max(), Duration::max() - std::chrono::seconds(1),
                               Duration(std::chrono::hours(24 * 365 * 280))}) {
    const Deadline deadline = Deadline::after(limit);
    EXPECT_FALSE(deadline.passed());
    EXPECT_GT(deadline.remaining(), std::chrono::hours(24 * 365 * 99));
    // What others do with it.
    EXPECT_GT(Clock::now() + deadline.remaining(), Clock::now());
    const auto wall = std::chrono::system_clock::now();
    EXPECT_GT(wall + deadline.remaining(), wall);
  }
}

TEST(Deadline, OfNothingOrLessHasPassed) {
  for (const Duration limit : {Duration::zero(), Duration(-1), Duration::min()}) {
    EXPECT_TRUE(Deadline::after(limit).passed());
    EXPECT_EQ(Deadline::after(limit).remaining(), Duration::zero());
  }
}

TEST(Deadline, OfAnOrdinaryLimitIsThatLimitAway) {
  const Deadline deadline = Deadline::after(std::chrono::hours(1));
  EXPECT_FALSE(deadline.passed());
  EXPECT_LE(deadline.remaining(), std::chrono::hours(1));
  EXPECT_GT(deadline.remaining(), std::chrono::minutes(1));
}

}  // namespace
}  // namespace lockstep
