// What signals mean to an agent whose ranks have ended.
#include "launcher/agent/farewell.h"

#include <gtest/gtest.h>

namespace lockstep::launcher {
namespace {

constexpr auto kLimit = std::chrono::seconds(60);

// Ready when it is asked for the fourth time: the signals were heeded by then.
std::function<bool()> ready_later() {
  return [asked = 0]() mutable { return ++asked > 3; };
}

TEST(Farewell, copies_of_a_wish_cut_nothing) {
  StopSignals signals;
  StopWish wish;
  wish.take(SIGTERM, Clock::now().time_since_epoch());
  Farewell farewell(signals, wish, /*usr1_asks=*/true);
  for (const int copy : {SIGINT, SIGHUP, SIGUSR1}) ::raise(copy);
  EXPECT_TRUE(farewell.wait_until(ready_later(), kLimit));
}

TEST(Farewell, who_asks_first_now_is_heard_and_cuts_nothing) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    StopSignals signals;
    Farewell farewell(signals, {}, /*usr1_asks=*/false);
    EXPECT_FALSE(farewell.asked());
    ::raise(signal);
    EXPECT_TRUE(farewell.wait_until(ready_later(), kLimit));
    EXPECT_TRUE(farewell.asked());
  }
}

TEST(Farewell, who_insists_ends_the_wait) {
  for (const int signal : {SIGINT, SIGTERM}) {
    StopSignals signals;
    StopWish wish;
    wish.take(signal, Clock::now().time_since_epoch() - StopWish::kApart);
    Farewell farewell(signals, wish, /*usr1_asks=*/true);
    ::raise(signal);
    EXPECT_FALSE(farewell.wait_until(ready_later(), kLimit));
  }
}

TEST(Farewell, sigusr1_asks_only_where_it_is_not_the_ranks_own) {
  for (const bool asks : {false, true}) {
    StopSignals signals;
    Farewell farewell(signals, {}, asks);
    ::raise(SIGUSR1);
    EXPECT_TRUE(farewell.wait_until(ready_later(), kLimit));
    EXPECT_EQ(farewell.asked(), asks);
  }
}

}  // namespace
}  // namespace lockstep::launcher
