#include "comm/lane.h"

#include <gtest/gtest.h>

#include "comm/work_state.h"

namespace lockstep::comm {
namespace {

std::shared_ptr<WorkState> make_work() {
  return std::make_shared<WorkState>("test", std::chrono::seconds(20), std::weak_ptr<Lane>(), [](const std::string&) {});
}

Lane::Job job_for(const std::shared_ptr<WorkState>& work) {
  return {.work = work, .run = [work] { work->finish(nullptr); }};
}

// The lane's thread leaves a lone small job to whoever waits for it, for a while. Woken too early for such a job, it once went
// to sleep for good with the job still in the queue.
TEST(Lane, RunsALoneSmallJobHoweverOftenItIsWokenTooEarly) {
  Lane lane;
  const auto done = make_work();
  lane.submit(job_for(done));
  done->wait();
  for (int round = 0; round < 20; ++round) {
    const auto lone = make_work();
    lane.submit(job_for(lone));
    for (const Deadline early = Deadline::after(std::chrono::milliseconds(2)); !early.passed();) lane.help(*done);
    lone->wait(std::chrono::seconds(10));  // knows no lane, so only the lane's thread can run the job
    ASSERT_TRUE(lone->done());
  }
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
