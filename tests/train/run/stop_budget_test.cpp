// What a stop is said to take, of durations that the tests give.
#include "train/run/stop_budget.h"

#include <gmock/gmock.h>

namespace lockstep::train {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(StopBudget, SaysNothingAsLongAsItKnowsTooLittle) {
  StopBudget budget(seconds(25));
  EXPECT_EQ(budget.warning(), "");
  budget.stepped(seconds(100), seconds(100));  // warming up
  EXPECT_EQ(budget.warning(), "");
  budget.stepped(seconds(10), seconds(12));
  EXPECT_EQ(budget.warning(), "");
}

TEST(StopBudget, AddsUpWhatAStopMayWaitFor) {
  StopBudget budget(seconds(25));
  budget.stepped(seconds(1), seconds(1));
  budget.stepped(seconds(2), seconds(5));  // the longest, with an evaluation
  budget.stepped(seconds(1), seconds(1));
  budget.saved(seconds(18));
  EXPECT_EQ(budget.warning(), "") << "25 s are enough";
  budget.saved(milliseconds(18100));
  EXPECT_THAT(
      budget.warning(),
      AllOf(HasSubstr(
                "this run may need 25.1 s (7.00 s until a step ends it, 18.1 s for the save), but "
                "checkpoint.stop_budget_s allows 25.0 s"),
            HasSubstr("Slurm: --signal=USR1@38,")));
  budget.saved(seconds(1000));
  EXPECT_EQ(budget.warning(), "") << "it is said once";
}

TEST(StopBudget, TheLastSaveCounts) {
  StopBudget budget(seconds(25));
  budget.saved(seconds(26));
  budget.saved(seconds(1));
  EXPECT_EQ(budget.warning(), "");
}

TEST(StopBudget, StepsAloneMayBeTooLong) {
  StopBudget budget(seconds(25));
  budget.stepped(seconds(1), seconds(1));
  budget.stepped(seconds(13), seconds(13));
  EXPECT_THAT(budget.warning(),
              HasSubstr("may need 26.0 s (26.0 s until a step ends it, plus the save)"));
}

TEST(StopBudget, ZeroAsksForNothing) {
  StopBudget budget(seconds(0));
  budget.saved(seconds(1000));
  EXPECT_EQ(budget.warning(), "");
}

TEST(StopBudget, TimesAreShort) {
  EXPECT_EQ(stop_time_text(milliseconds(310)), "0.31 s");
  EXPECT_EQ(stop_time_text(milliseconds(31210)), "31.2 s");
  EXPECT_EQ(stop_time_text(seconds(250)), "250 s");
}

}  // namespace
}  // namespace lockstep::train
