#include "launcher/base/host_list.h"

#include <gmock/gmock.h>

#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(HostList, ExpandsNamesAndRanges) {
  EXPECT_THAT(expand_hosts("a"), ElementsAre("a"));
  EXPECT_THAT(expand_hosts("me@a.example.org,10.0.0.2"),
              ElementsAre("me@a.example.org", "10.0.0.2"));
  EXPECT_THAT(expand_hosts("node[01-03,7],login"),
              ElementsAre("node01", "node02", "node03", "node7", "login"));
  EXPECT_THAT(expand_hosts("n[9-11]-ib"), ElementsAre("n9-ib", "n10-ib", "n11-ib"));
  EXPECT_THAT(expand_hosts("n[098-101]"), ElementsAre("n098", "n099", "n100", "n101"));
  EXPECT_THAT(expand_hosts("r[1-2]n[1-2]"), ElementsAre("r1n1", "r1n2", "r2n1", "r2n2"));
}

TEST(HostList, NamesTheFaultAndItsPlace) {
  const auto fault = [](const char* text) { return test::error_of([&] { expand_hosts(text); }); };
  EXPECT_THAT(fault(""), HasSubstr("no name"));
  EXPECT_THAT(fault("a,,b"), HasSubstr("'a,,b', character 3: a host has no name"));
  EXPECT_THAT(fault("a,"), HasSubstr("no name"));
  EXPECT_THAT(fault("n[1-2"), HasSubstr("character 6: expected ']'"));
  EXPECT_THAT(fault("n[]"), HasSubstr("expected a number"));
  EXPECT_THAT(fault("n[a]"), HasSubstr("expected a number"));
  EXPECT_THAT(fault("n[4-2]"), HasSubstr("runs backwards"));
  EXPECT_THAT(fault("n]"), HasSubstr("cannot be part of a name"));
  EXPECT_THAT(fault("a b"), HasSubstr("cannot be part of a name"));
  EXPECT_THAT(fault("a,b,a"), HasSubstr("'a' comes twice"));
  EXPECT_THAT(fault("n[1-999999999]"), HasSubstr("more than 100000"));
  EXPECT_THAT(fault("n[1-1000]m[1-1000]"), HasSubstr("more than 100000"));
  EXPECT_THAT(fault("n[1-99999999999999999999]"), HasSubstr("1 to 9 digits"));
}

}  // namespace
}  // namespace lockstep::launcher
