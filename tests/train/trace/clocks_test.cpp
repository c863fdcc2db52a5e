#include "train/trace/clocks.h"

#include <gtest/gtest.h>

#include "tests/support/run_group.h"

namespace lockstep::train {
namespace {

TEST(Clocks, ARoundTripTellsTheShiftAndItsError) {
  // Asked at 100, answered with 1000 by the other clock, received at 120: the answer was given at
  // about 110.
  const ClockShift shift = shift_of(100, 1'000, 120);
  EXPECT_EQ(shift.shift_ns, 890);
  EXPECT_EQ(shift.within_ns, 10);
}

TEST(Clocks, ALateAnswerCountsAsError) { EXPECT_EQ(shift_of(0, 0, 7).within_ns, 4); }

// Threads have one clock.
TEST(Clocks, RanksOfOneHostHaveOneClock) {
  test::expect_success(test::run_group(3, [](const test::Group& group) {
    EXPECT_EQ(measure_clock(*group).shift_ns, 0) << "rank " << group->rank();
  }));
}

}  // namespace
}  // namespace lockstep::train
