// What signals add up to that ask a process to stop.
#include "launcher/base/stop_wish.h"

#include <gtest/gtest.h>

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using Meaning = StopWish::Meaning;

TEST(StopWish, the_first_signal_asks_whichever_it_is) {
  for (const int signal : kStopSignals) {
    StopWish wish;
    EXPECT_FALSE(wish.asked());
    EXPECT_EQ(wish.take(signal, Duration::zero()), Meaning::ask);
    EXPECT_TRUE(wish.asked());
  }
}

TEST(StopWish, what_comes_within_a_second_is_a_copy) {
  for (const int signal : {SIGINT, SIGTERM}) {
    StopWish wish;
    wish.take(signal, milliseconds(500));
    EXPECT_EQ(wish.take(signal, milliseconds(500)), Meaning::copy);
    EXPECT_EQ(wish.take(signal, milliseconds(1499)), Meaning::copy);
    EXPECT_EQ(wish.take(signal, milliseconds(1500)), Meaning::insist);
  }
}

TEST(StopWish, the_second_counts_from_the_first_signal_and_copies_do_not_defer_it) {
  StopWish wish;
  for (int at = 0; at < 1000; at += 100)
    EXPECT_NE(wish.take(SIGINT, milliseconds(at)), Meaning::insist);
  EXPECT_EQ(wish.take(SIGINT, milliseconds(1000)), Meaning::insist);
}

TEST(StopWish, only_a_signal_that_comes_again_insists) {
  StopWish wish;
  EXPECT_EQ(wish.take(SIGUSR1, milliseconds(0)), Meaning::ask);
  EXPECT_EQ(wish.take(SIGUSR1, milliseconds(5000)), Meaning::copy)
      << "a scheduler's warning is nobody's impatience";
  EXPECT_EQ(wish.take(SIGHUP, milliseconds(6000)), Meaning::copy);
  EXPECT_EQ(wish.take(SIGHUP, milliseconds(8000)), Meaning::copy);
  EXPECT_EQ(wish.take(SIGTERM, milliseconds(60000)), Meaning::copy)
      << "what a scheduler sends at the time limit";
  EXPECT_EQ(wish.take(SIGINT, milliseconds(62000)), Meaning::copy);
  EXPECT_EQ(wish.take(SIGTERM, milliseconds(62000)), Meaning::insist);
}

}  // namespace
}  // namespace lockstep::launcher
