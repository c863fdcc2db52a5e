#include "comm/engine/lane.h"

#include <future>

#include <gtest/gtest.h>

#include "comm/engine/work_state.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

std::shared_ptr<WorkState> make_work() {
  return std::make_shared<WorkState>("test", 1, std::chrono::seconds(20), std::weak_ptr<Lane>(),
                                     [](const std::string&) {});
}

Lane::Job job_for(const std::shared_ptr<WorkState>& work) {
  return {.work = work, .run = [work] { work->finish(nullptr); }};
}

// The lane's thread leaves a lone small job to whoever waits for it, for a while. Woken too early
// for such a job, it once went to sleep for good with the job still in the queue.
TEST(Lane, RunsALoneSmallJobHoweverOftenItIsWokenTooEarly) {
  Lane lane;
  const auto done = make_work();
  lane.submit(job_for(done));
  done->wait();
  for (int round = 0; round < 20; ++round) {
    const auto lone = make_work();
    lane.submit(job_for(lone));
    for (const Deadline early = Deadline::after(std::chrono::milliseconds(2)); !early.passed();)
      lane.help(*done);
    // Knows no lane, so only the lane's thread can run the job.
    lone->wait(std::chrono::seconds(10));
    ASSERT_TRUE(lone->done());
  }
}

// A call that runs until its limit, and then ends as `end` says.
std::shared_ptr<WorkState> submit_endless(const std::shared_ptr<Lane>& lane, uint64_t number,
                                          const std::function<void()>& end) {
  const auto work = std::make_shared<WorkState>("test", number, std::chrono::seconds(20), lane,
                                                [](const std::string&) {});
  lane->submit({.work = work, .run = [work, end] {
                  const Limit limit = work->limit();
                  while (!limit.passed()) std::this_thread::yield();
                  try {
                    end();
                    work->finish(nullptr);
                  } catch (...) {
                    work->finish(std::current_exception());
                  }
                }});
  return work;
}

TEST(Lane, AWaitThatGivesUpEndsItsCallAndThoseInFrontOfItButNoLaterOnes) {
  const auto lane = std::make_shared<Lane>();
  const auto fails = [] { throw EnvironmentError("nobody came"); };
  const auto first = submit_endless(lane, 1, fails);
  const auto second = submit_endless(lane, 2, fails);
  const auto third = submit_endless(lane, 3, [] {});
  try {
    second->wait(std::chrono::milliseconds(1));
    FAIL();
  } catch (const TimeoutError& e) {
    EXPECT_STREQ(e.what(), "nobody came");
  }
  EXPECT_TRUE(first->done());
  EXPECT_FALSE(third->done());
  // A call that ends well at the last moment has ended well.
  EXPECT_NO_THROW(third->wait(std::chrono::milliseconds(1)));
}

TEST(Lane, AWaitThatGivesUpEndsTheGroupWhereTheCallDoesNotReact) {
  const auto lane = std::make_shared<Lane>();
  std::promise<std::string> ended;
  const auto work =
      std::make_shared<WorkState>("a deaf call", 1, std::chrono::seconds(20), lane,
                                  [&](const std::string& why) { ended.set_value(why); });
  lane->submit({.work = work, .run = [work, why = ended.get_future().share()] {
                  why.wait();
                  work->finish(nullptr);
                }});
  EXPECT_THROW(work->wait(std::chrono::milliseconds(1)), TimeoutError);
}

TEST(Lane, RunsEverythingBeforeItCloses) {
  std::vector<std::shared_ptr<WorkState>> all;
  {
    Lane lane;
    for (int i = 0; i < 100; ++i) {
      all.push_back(make_work());
      lane.submit(job_for(all.back()));
    }
  }
  for (const auto& work : all) EXPECT_TRUE(work->done());
}

}  // namespace
}  // namespace lockstep::comm
