#include "comm/engine/flight_recorder.h"

#include <sstream>

#include <gmock/gmock.h>

#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(FlightRecorder, AnExcerptHasAllThatIsOpenAndTheLastThatEnded) {
  FlightRecorder recorder;
  Fingerprint call;
  for (call.sequence = 1; call.sequence <= 8; ++call.sequence) {
    const uint64_t entry = recorder.submitted(call);
    if (call.sequence == 8) break;
    recorder.started(entry);
    if (call.sequence != 2) recorder.finished(entry, true);
  }
  const auto [left_out, shown] = recorder.excerpt(2);
  EXPECT_THAT(left_out, ElementsAre(HasSubstr("#1: took"), HasSubstr("#3: took"),
                                    HasSubstr("#4: took"), HasSubstr("#5: took")));
  EXPECT_THAT(shown, ElementsAre(HasSubstr("#2: running for"), HasSubstr("#6: took"),
                                 HasSubstr("#7: took"), HasSubstr("#8: queued")));
  EXPECT_TRUE(recorder.excerpt(6).left_out.empty());
  EXPECT_EQ(recorder.excerpt(100).shown.size(), 8u);
}

TEST(FlightRecorder, WhatFellOutOfMemoryIsNoPartOfAnExcerpt) {
  FlightRecorder recorder;
  for (size_t i = 0; i < 2 * FlightRecorder::kKept; ++i)
    recorder.finished(recorder.submitted({}), true);
  EXPECT_EQ(recorder.lines().size(), FlightRecorder::kKept);
  EXPECT_EQ(recorder.excerpt(3).left_out.size(), FlightRecorder::kKept - 3);
}

// What the log says where one of two ranks does not come to its hundredth call.
std::vector<std::string> log_of_a_hang() {
  testing::internal::CaptureStderr();
  const auto store = std::make_shared<HashStore>(), end = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    ProcessGroup group(make_local(store, rank, 2, {}), {});
    for (int i = 1; i < 100; ++i) group.barrier().wait();
    if (rank == 0) {
      EXPECT_THROW(group.barrier().wait(std::chrono::milliseconds(20)), TimeoutError);
      end->set("reached", "");
    }
    end->wait({"reached"}, std::chrono::seconds(60));  // rank 1 must not leave before
  });
  std::istringstream text(testing::internal::GetCapturedStderr());
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

TEST(FlightRecorder, AHangIsToldInFewLines) {
  EXPECT_THAT(
      log_of_a_hang(),
      ElementsAre(
          HasSubstr("60 more of the last 64 calls have ended; LOCKSTEP_LOG_LEVEL=debug shows them"),
          HasSubstr("barrier #97: took"), HasSubstr("barrier #98: took"),
          HasSubstr("barrier #99: took"), HasSubstr("barrier #100: running for")));
}

TEST(FlightRecorder, TheLogHasAllOfItAtLevelDebug) {
  log::set_level(log::Level::debug);
  const auto lines = log_of_a_hang();
  log::set_level(log::Level::info);
  ASSERT_EQ(lines.size(), 65u);
  EXPECT_THAT(lines.front(), HasSubstr("debug: [comm] group '"));
  EXPECT_THAT(lines.front(), HasSubstr("barrier #37: took"));
}

}  // namespace
}  // namespace lockstep::comm
