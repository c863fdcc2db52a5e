#include "train/bench/pairs.h"

#include <gmock/gmock.h>

#include "tests/support/run_group.h"

namespace lockstep::train {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Pairs, AreAllMeasuredAndKnownToAll) {
  test::expect_success(test::run_group(3, [](const test::Group& group) {
    const std::vector<PairFigures> pairs = measure_pairs(*group);
    ASSERT_EQ(pairs.size(), 3U);
    for (const PairFigures& pair : pairs) {
      EXPECT_LT(pair.a, pair.b);
      EXPECT_GT(pair.latency_us, 0);
      EXPECT_GT(pair.gb_per_s, 0);
      EXPECT_LT(std::abs(pair.clock_ahead_ms), 60'000) << "both are of this machine";
    }
    EXPECT_EQ(pairs[0].b + pairs[1].b + pairs[2].b, 5) << "0-1, 0-2 and 1-2";
  }));
}

TEST(Pairs, ClocksAndSlowLinksBetweenHostsAreFound) {
  const std::vector<std::string> hosts = {"x", "x", "y", "z"};
  EXPECT_THAT(findings({{0, 1, 1, 0.1, 900}, {0, 2, 20, 3, 2}, {0, 3, 20, 2.5, -50}}, hosts),
              IsEmpty())
      << "ranks of one host do not count";
  EXPECT_THAT(
      findings({{0, 2, 20, 3, 1500}, {2, 3, 20, 0.3, -250}}, hosts),
      ElementsAre(HasSubstr("the clock of y is 1500.0 ms ahead of that of x"),
                  HasSubstr("the clock of z is 250.0 ms behind that of y"),
                  HasSubstr("between y and z there are 0.3 GB/s, and 3.0 between the best")));
}

}  // namespace
}  // namespace lockstep::train
