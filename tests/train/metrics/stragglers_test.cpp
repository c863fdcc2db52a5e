#include "train/metrics/stragglers.h"

#include <gmock/gmock.h>

namespace lockstep::train {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

using Times = std::vector<RankTimes>;

const Times kEqual = {{0.1, 9, 1}, {0.1, 9.5, 0.5}, {0.1, 8.9, 1.1}, {0.1, 9.2, 0.8}};
// A rank with a tenth of a core.
const Times kOneSlow = {{0.1, 9, 81}, {0.1, 9, 81}, {0.1, 90, 0.2}, {0.1, 9, 81}};
const Times kSlowDisk = {{0.2, 9, 20}, {20.2, 9, 0.2}, {0.2, 9, 20}};
const Times kSlightly = {{0, 10, 8}, {0, 18, 0}};

TEST(Stragglers, SaysNothingOfEqualRanks) {
  Stragglers ranks;
  for (int step = 10; step < 100; step += 10) EXPECT_EQ(ranks.look(step, kEqual), "");
}

TEST(Stragglers, NamesRankPhaseFactorAndCostInTheFirstWindow) {
  Stragglers ranks({"a", "a", "b", "b"});
  EXPECT_THAT(ranks.look(10, kOneSlow),
              AllOf(HasSubstr("rank 2 on host b is slow"), HasSubstr("computing takes it 90.0 ms"),
                    HasSubstr("10.0 times as long"), HasSubstr("(9.0 ms)"),
                    HasSubstr("81.0 ms of 90.3 ms"), HasSubstr("up to 10")));
  EXPECT_EQ(ranks.look(20, kOneSlow), "") << "said already";
}

TEST(Stragglers, TellsReadingFromComputing) {
  Stragglers ranks({"a", "a", "a"});
  EXPECT_THAT(ranks.look(10, kSlowDisk),
              AllOf(HasSubstr("rank 1 is slow: reading data takes it 20.2 ms"),
                    HasSubstr("101 times as long")));
}

TEST(Stragglers, OfTwoRanksTheSlowerOneIsNamed) {
  Stragglers ranks;
  EXPECT_THAT(ranks.look(10, Times{{0, 40, 0}, {0, 10, 30}}), HasSubstr("rank 0 is slow"));
}

TEST(Stragglers, WaitsForASecondWindowWhereTheDifferenceIsSmall) {
  Stragglers ranks;
  EXPECT_EQ(ranks.look(10, kSlightly), "");
  EXPECT_THAT(ranks.look(20, kSlightly),
              AllOf(HasSubstr("rank 1 is slow"), HasSubstr("1.8 times as long")));
  Stragglers others;
  EXPECT_EQ(others.look(10, kSlightly), "");
  EXPECT_EQ(others.look(20, Times{{0, 10, 0}, {0, 10, 0}}), "");
  EXPECT_EQ(others.look(30, kSlightly), "") << "one window in between was quiet";
}

TEST(Stragglers, IgnoresDifferencesThatCostLittle) {
  Stragglers ranks;
  // Twice as long, but the step is made of communication.
  for (int step = 10; step < 50; step += 10)
    EXPECT_EQ(ranks.look(step, Times{{0, 1, 40}, {0, 4, 37}}), "");
}

TEST(Stragglers, SaysWhenItIsOverAndNotForEveryPause) {
  Stragglers ranks;
  EXPECT_NE(ranks.look(10, kOneSlow), "");
  EXPECT_EQ(ranks.look(20, kEqual), "");
  EXPECT_EQ(ranks.look(30, kOneSlow), "") << "still the same rank";
  EXPECT_EQ(ranks.look(40, kEqual), "");
  EXPECT_EQ(ranks.look(50, kEqual), "no rank is slow any more (it was rank 2)");
  EXPECT_THAT(ranks.look(60, kOneSlow), HasSubstr("rank 2 is slow"));
  for (int step = 70; step < 100; step += 10)
    EXPECT_EQ(ranks.look(step, kEqual), "") << "the second time takes longer";
  EXPECT_THAT(ranks.look(100, kEqual), HasSubstr("no rank is slow"));
}

TEST(Stragglers, ASlowRankReplacesAnother) {
  Stragglers ranks;
  EXPECT_THAT(ranks.look(10, kOneSlow), HasSubstr("rank 2"));
  EXPECT_THAT(ranks.look(20, Times{{0, 90, 0}, {0, 9, 81}, {0, 9, 81}, {0, 9, 81}}),
              AllOf(HasSubstr("rank 0 is slow"), Not(HasSubstr("rank 2"))));
}

TEST(StepTimes, LeaveOutTheLongestStep) {
  StepTimes times;
  EXPECT_EQ(times.mean().step_ms(), 0);
  times.add({1, 500, 2});  // the first step of a run
  EXPECT_EQ(times.mean().step_ms(), 0) << "nothing to compare yet";
  for (int i = 0; i < 4; ++i) times.add({1, 10, 2});
  EXPECT_EQ(times.mean().data_ms, 1);
  EXPECT_EQ(times.mean().compute_ms, 10);
  EXPECT_EQ(times.mean().wait_ms, 2);
}

TEST(StepTimes, CoverTheLastStepsOnly) {
  StepTimes times;
  for (int i = 0; i < 50; ++i) times.add({0, 100, 0});
  for (int i = 0; i < StepTimes::kWindow; ++i) times.add({0, 10, 0});
  EXPECT_EQ(times.mean().compute_ms, 10);
}

}  // namespace
}  // namespace lockstep::train
