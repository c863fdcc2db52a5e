#include "comm/engine/limit.h"

#include <gtest/gtest.h>

#include "comm/engine/backend.h"

namespace lockstep::comm {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(Patience, WithoutATimeoutARankThatComputesHasLongAndAStoppedOneHasNot) {
  const Patience patience = patience_of(std::nullopt);
  EXPECT_EQ(patience.limit, kDefaultTimeout);
  EXPECT_EQ(patience.stopped, kDefaultStoppedTimeout);
  EXPECT_GE(patience.limit, minutes(10));
  EXPECT_LE(patience.stopped, minutes(1));
}

TEST(Patience, ATimeoutHoldsWhateverTheRankDoes) {
  const Patience patience = patience_of(hours(2));
  EXPECT_EQ(patience.limit, Duration(hours(2)));
  EXPECT_EQ(patience.stopped, Duration(hours(2)));
}

TEST(Limit, CountsARankThatIsStoppedForLongAsMissing) {
  GivenUp given_up;
  const Limit limit("a call", Patience(hours(1), seconds(30)), given_up, 1);
  EXPECT_FALSE(limit.passed());
  EXPECT_FALSE(limit.passed_for_stopped(seconds(29)));
  EXPECT_TRUE(limit.passed_for_stopped(seconds(30)));
  EXPECT_EQ(limit.reached(), "limit of 30 s for a stopped rank reached");
}

TEST(Limit, OfADeadlineAloneDoesNotAskWhatARankDoes) {
  const Limit limit = Deadline::after(hours(1));
  EXPECT_FALSE(limit.passed_for_stopped(hours(24)));
}

TEST(Limit, EndsForACallThatIsGivenUpAndForThoseInFrontOfIt) {
  GivenUp given_up;
  const Limit first("first", hours(1), given_up, 1), second("second", hours(1), given_up, 2),
      third("third", hours(1), given_up, 3);
  given_up.through(2, seconds(5));
  EXPECT_TRUE(first.passed() && second.passed());
  EXPECT_EQ(second.reached(), "given up after a wait of 5 s");
  EXPECT_FALSE(third.passed());
  given_up.withdraw();
  EXPECT_TRUE(third.passed() && third.withdrawn());
  EXPECT_EQ(third.remaining(), Duration::zero());
}

TEST(Limit, IsSaidToBeFarAtFirstSoonAndThenMoreAndMoreRarely) {
  EXPECT_LE(say_after(0), seconds(15));
  for (uint32_t times = 0; times < 100; ++times) {
    EXPECT_GE(say_after(times + 1), say_after(times));
    EXPECT_LT(say_after(times), kLongestLimit);
  }
  EXPECT_EQ(say_after(3), 8 * say_after(0));
}

}  // namespace
}  // namespace lockstep::comm
