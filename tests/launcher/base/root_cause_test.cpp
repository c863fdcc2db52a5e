#include "launcher/base/root_cause.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "launcher/agent/report.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;

RankEnd exited(int rank, int code, int seen_ms) {
  RankEnd end;
  end.rank = rank;
  end.status.exit_code = code;
  end.seen_at = milliseconds(seen_ms);
  end.alive_at = milliseconds(seen_ms - 10);
  return end;
}

RankEnd killed(int rank, int signal, int seen_ms) {
  RankEnd end = exited(rank, 0, seen_ms);
  end.status.signal = signal;
  return end;
}

RankEnd reporting(RankEnd end, int at_ms, bool caused_by_peer = false) {
  end.report = FailureReport{
      .message = "because", .caused_by_peer = caused_by_peer, .at = milliseconds(at_ms)};
  return end;
}

RankEnd told(RankEnd end) {
  end.after_signal = true;
  return end;
}

int blamed(const std::vector<RankEnd>& ends, std::optional<Duration> signalled_at = std::nullopt) {
  const auto first = first_failure(ends, signalled_at);
  return first ? ends[*first].rank : -1;
}

TEST(RootCause, is_a_rank_that_ends_as_if_it_had_saved_but_does_not_say_so) {
  EXPECT_EQ(blamed({exited(0, 0, 5), exited(1, 3, 6)}), 1);
  RankEnd other_code = exited(1, 4, 6);
  other_code.report = parse_failure_report(R"({"saved": true})");
  EXPECT_EQ(blamed({exited(0, 0, 5), other_code}), 1);
}

TEST(RootCause, is_nobody_when_all_went_well) {
  RankEnd saved = exited(1, 3, 6);
  saved.report = parse_failure_report(R"({"saved": true})");
  EXPECT_EQ(blamed({exited(0, 0, 5), saved}), -1) << "a stop after saving";
  EXPECT_EQ(blamed({told(killed(0, SIGTERM, 9)), told(killed(1, SIGKILL, 9))}, milliseconds(5)),
            -1);
}

TEST(RootCause, is_the_first_to_end) {
  EXPECT_EQ(blamed({exited(0, 1, 30), exited(1, 7, 20), exited(2, 1, 40)}), 1);
}

TEST(RootCause, is_a_kill_rather_than_those_who_noticed_it) {
  // Rank 1 was killed; rank 0 saw its connection close, reported that and ended. The agent sees
  // both at once.
  EXPECT_EQ(blamed({reporting(exited(0, 1, 20), 15), killed(1, SIGKILL, 20)}), 1);
}

TEST(RootCause, is_not_an_abort_that_follows_an_error) {
  EXPECT_EQ(blamed({killed(0, SIGABRT, 20), reporting(exited(1, 1, 20), 12)}), 1);
}

TEST(RootCause, is_not_who_blames_a_peer) {
  EXPECT_EQ(blamed({reporting(exited(0, 1, 10), 9, true), exited(1, 1, 30)}), 1);
  EXPECT_EQ(blamed({reporting(exited(0, 1, 10), 9, true)}), 0) << "unless there is nobody else";
}

TEST(RootCause, is_who_has_a_failure_of_its_own_even_if_all_report_and_it_comes_last) {
  EXPECT_EQ(blamed({reporting(exited(0, 1, 10), 8, true), reporting(exited(1, 1, 30), 28),
                    reporting(exited(2, 1, 11), 9, true)}),
            1);
  // It took its time: the agent had begun to end the ranks when it said what had happened.
  EXPECT_EQ(blamed({reporting(exited(0, 1, 10), 8, true), told(reporting(exited(1, 1, 30), 28))},
                   milliseconds(20)),
            1);
}

TEST(RootCause, is_not_a_consequence_of_being_ended) {
  EXPECT_EQ(blamed({reporting(exited(0, 1, 10), 8, true), told(exited(1, 1, 30)),
                    told(reporting(exited(2, 1, 30), 28, true))},
                   milliseconds(20)),
            0);
}

TEST(RootCause, is_who_reported_first_even_if_it_takes_long_to_end) {
  // Rank 0 failed first but hung in its clean-up until the agent told it to end.
  EXPECT_EQ(
      blamed({told(reporting(killed(0, SIGTERM, 90), 10)), exited(1, 1, 20)}, milliseconds(25)), 0);
}

TEST(RootCause, is_not_who_failed_while_being_ended) {
  EXPECT_EQ(blamed({told(exited(0, 1, 30)), exited(1, 9, 20)}, milliseconds(25)), 1);
}

TEST(FailureReport, reads_our_format_and_torchelastic) {
  const auto ours =
      parse_failure_report(R"({"message":"loss is nan","caused_by_peer":true,"monotonic_ns":7})");
  ASSERT_TRUE(ours);
  EXPECT_EQ(ours->message, "loss is nan");
  EXPECT_TRUE(ours->caused_by_peer);
  EXPECT_EQ(ours->at, Duration(7));
  const auto torch = parse_failure_report(
      R"({"message":{"message":"ValueError: x","extraInfo":{"timestamp":"1"}}})");
  ASSERT_TRUE(torch);
  EXPECT_EQ(torch->message, "ValueError: x");
  EXPECT_FALSE(torch->at);
}

TEST(FailureReport, takes_any_bytes_for_a_message) {
  EXPECT_FALSE(parse_failure_report(""));
  EXPECT_EQ(parse_failure_report("plain words\n")->message, "plain words");
  EXPECT_EQ(parse_failure_report("{\"message\":")->message, "{\"message\":");
  EXPECT_EQ(parse_failure_report(R"({"message":[1,2],"caused_by_peer":"yes","monotonic_ns":"x"})")
                ->message,
            "[1,2]");
}

TEST(FailureBox, says_who_where_why_and_what_became_of_the_others) {
  Failure failure;
  failure.rank = 1;
  failure.host = "h";
  failure.pid = 17;
  failure.signal = SIGKILL;
  failure.reason = signal_hint(SIGKILL, 1);
  failure.last_lines = {"step 3", "step 4"};
  EXPECT_EQ(failure_box(failure, {.after_seconds = 2.04,
                                  .log_file = "logs/rank-1.log",
                                  .others = {"rank 0: ended by the launcher"}}),
            "the job failed; first failure:\n"
            "┌ rank 1 on host h (pid 17): killed by SIGKILL (signal 9), 2.0 s after the start\n"
            "│ reason: the kernel ran out of memory meanwhile and killed a process: most likely "
            "this one (see dmesg)\n"
            "│ last lines of its output (all of it: logs/rank-1.log):\n"
            "│   step 3\n"
            "│   step 4\n"
            "│ rank 0: ended by the launcher\n"
            "└");
}

TEST(FailureBox, keeps_a_reason_of_several_lines_within_the_box) {
  Failure failure;
  failure.rank = 0;
  failure.host = "h";
  failure.pid = 17;
  failure.exit_code = 1;
  failure.reason = "none can be used:\n  step 1\n  step 2";
  EXPECT_EQ(failure_box(failure, {.after_seconds = 1, .log_file = {}, .others = {}}),
            "the job failed; first failure:\n"
            "┌ rank 0 on host h (pid 17): exit code 1, 1.0 s after the start\n"
            "│ reason: none can be used:\n"
            "│   step 1\n"
            "│   step 2\n"
            "└");
}

TEST(FailureBox, says_the_same_of_several_ranks_once) {
  Failure failure;
  failure.rank = 1;
  failure.reason = "because";
  RankEnd told = killed(6, SIGTERM, 30);
  told.after_signal = true;
  std::vector<RankEnd> ends;
  for (int rank = 0; rank < 5; ++rank) ends.push_back(reporting(exited(rank, 2, 10 + rank), rank));
  ends.push_back(reporting(exited(5, 2, 15), 5));
  ends.back().report->message = "rank 1 left\nand more";
  ends.push_back(told);
  told.rank = 7;
  ends.push_back(told);
  EXPECT_EQ(other_ends(ends, failure),
            (std::vector<std::string>{"ranks 0 and 2 to 4: exit code 2, later, for the same reason",
                                      "rank 5: exit code 2, later: rank 1 left",
                                      "ranks 6 and 7: ended by the launcher"}));
}

}  // namespace
}  // namespace lockstep::launcher
