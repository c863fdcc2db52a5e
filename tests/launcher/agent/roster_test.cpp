#include "launcher/agent/roster.h"

#include <gmock/gmock.h>

namespace lockstep::launcher {
namespace {

using std::chrono::seconds;

std::vector<Node> nodes(const std::vector<std::pair<std::string, int>>& places) {
  std::vector<Node> all;
  for (const auto& [host, place] : places) {
    all.emplace_back().host = host;
    all.back().node_rank = place;
  }
  return all;
}

TEST(Roster, NamesWhoIsThereAndWhoIsMissing) {
  EXPECT_EQ(roster_text(nodes({{"a", 0}, {"c", 2}}), 4),
            "2 of 4 joined: node 0 on a and node 2 on c; missing: nodes 1 and 3");
  EXPECT_EQ(roster_text(nodes({{"a", 1}}), 2), "1 of 2 joined: node 1 on a; missing: node 0");
  EXPECT_EQ(roster_text({}, 2), "0 of 2 joined; missing: nodes 0 and 1");
}

TEST(Roster, CannotNameNodesWithoutAPlace) {
  EXPECT_EQ(roster_text(nodes({{"a", -1}, {"b", -1}}), 3), "2 of 3 joined: a and b");
  EXPECT_EQ(roster_text(nodes({{"a", 0}, {"b", -1}}), 3), "2 of 3 joined: node 0 on a and b");
}

TEST(Roster, CutsLongLists) {
  EXPECT_EQ(roster_text(nodes({{"a", 0}}), 100),
            "1 of 100 joined: node 0 on a; missing: nodes 1, 2, 3, 4, 5, 6, 7 and 92 more");
}

TEST(Roster, IsToldSoonThenAtEachChangeThenNowAndAgain) {
  Roster roster;
  roster.begin(seconds(100));
  EXPECT_EQ(roster.look(nodes({{"a", 0}}), 2, seconds(101)), "") << "most jobs are there by then";
  EXPECT_NE(roster.look(nodes({{"a", 0}}), 3, seconds(102)), "");
  EXPECT_EQ(roster.look(nodes({{"a", 0}}), 3, seconds(103)), "");
  EXPECT_EQ(roster.look(nodes({{"a", 0}, {"b", 1}}), 3, seconds(104)),
            "2 of 3 joined: node 0 on a and node 1 on b; missing: node 2");
  EXPECT_EQ(roster.look(nodes({{"a", 0}, {"b", 1}}), 3, seconds(113)), "");
  EXPECT_NE(roster.look(nodes({{"a", 0}, {"b", 1}}), 3, seconds(114)), "");
}

}  // namespace
}  // namespace lockstep::launcher
