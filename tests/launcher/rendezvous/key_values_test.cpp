#include "launcher/rendezvous/key_values.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

using std::chrono::seconds;

// What became of a wait.
struct Answer {
  std::vector<std::string> values;
  std::string missing;
  int calls = 0;

  KeyValues::Waiter waiter() {
    return {.found =
                [this](std::vector<std::string> got) {
                  values = std::move(got);
                  ++calls;
                },
            .late =
                [this](const std::string& key) {
                  missing = key;
                  ++calls;
                }};
  }
};

TEST(KeyValues, answers_at_once_when_all_keys_are_there) {
  KeyValues keys;
  keys.set("a", "1");
  keys.set("b", "2");
  Answer answer;
  keys.get({"b", "a"}, seconds(0), answer.waiter());
  EXPECT_EQ(answer.values, (std::vector<std::string>{"2", "1"}));
}

TEST(KeyValues, answers_with_the_last_key_that_comes) {
  KeyValues keys;
  Answer answer;
  keys.get({"a", "b"}, seconds(5), answer.waiter());
  keys.set("b", "2");
  EXPECT_EQ(answer.calls, 0);
  keys.set("a", "1");
  EXPECT_EQ(answer.values, (std::vector<std::string>{"1", "2"}));
  keys.tick(seconds(9));
  keys.set("a", "3");
  EXPECT_EQ(answer.calls, 1) << "an answer is given once";
}

TEST(KeyValues, a_removed_key_is_gone_for_those_who_come_later) {
  KeyValues keys;
  Answer before, after;
  keys.set("a", "1");
  keys.get({"a", "b"}, seconds(5), before.waiter());
  keys.remove({"a", "never set"});
  keys.get({"a"}, seconds(5), after.waiter());
  keys.set("b", "2");
  EXPECT_EQ(before.values, (std::vector<std::string>{"1", "2"}));
  EXPECT_EQ(after.calls, 0);
  keys.set("a", "new");
  EXPECT_EQ(after.values, (std::vector<std::string>{"new"}));
}

TEST(KeyValues, names_the_missing_key_at_the_deadline) {
  KeyValues keys;
  Answer early;
  Answer late;
  keys.get({"a", "b"}, seconds(5), early.waiter());
  keys.get({"b"}, seconds(7), late.waiter());
  keys.set("a", "1");
  EXPECT_EQ(*keys.next_deadline(), seconds(5));
  keys.tick(seconds(4));
  EXPECT_EQ(early.calls, 0);
  keys.tick(seconds(5));
  EXPECT_EQ(early.missing, "b");
  EXPECT_EQ(late.calls, 0);
  keys.set("b", "2");
  EXPECT_EQ(late.values, (std::vector<std::string>{"2"}));
  EXPECT_FALSE(keys.next_deadline().has_value());
}

TEST(KeyValues, counters_wake_waiters_and_refuse_what_is_no_number) {
  KeyValues keys;
  Answer answer;
  keys.get({"n"}, seconds(5), answer.waiter());
  EXPECT_EQ(keys.add("n", -3), -3);
  EXPECT_EQ(answer.values, (std::vector<std::string>{"-3"}));
  keys.set("text", "12x");
  EXPECT_THROW(keys.add("text", 1), UsageError);
  keys.set("n", std::to_string(INT64_MAX));
  EXPECT_THROW(keys.add("n", 1), UsageError);
}

TEST(KeyValues, compare_and_set_takes_an_absent_key_for_empty) {
  KeyValues keys;
  EXPECT_EQ(keys.compare_and_set("k", "x", "y"), "");
  EXPECT_EQ(keys.compare_and_set("k", "", "y"), "y");
  EXPECT_EQ(keys.compare_and_set("k", "", "z"), "y");
  EXPECT_EQ(keys.compare_and_set("k", "y", "z"), "z");
}

}  // namespace
}  // namespace lockstep::launcher
