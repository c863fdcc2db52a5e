#include "train/run/save_attempts.h"

#include <vector>

#include <gmock/gmock.h>

namespace lockstep::train {
namespace {

using std::chrono::minutes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A clock that stands still until it is told.
class SaveAttemptsTest : public testing::Test {
 protected:
  SaveAttempts attempts(double every) {
    return {every, [this] { return now_; }};
  }
  // For how many whole minutes no save is due.
  int64_t wait(const SaveAttempts& attempts) {
    int64_t waited = 0;
    for (; !attempts.due(); now_ += minutes(1)) ++waited;
    return waited;
  }
  Clock::time_point now_ = Clock::now();
};

TEST_F(SaveAttemptsTest, ASaveIsDueOnceTheTimeIsOver) {
  SaveAttempts saves = attempts(15);
  EXPECT_EQ(wait(saves), 15);
  saves.began();
  EXPECT_FALSE(saves.due());
  EXPECT_EQ(saves.succeeded(3), "");
  EXPECT_EQ(wait(saves), 15);
  EXPECT_TRUE(attempts(1e300).due() == false);
  SaveAttempts never = attempts(0);
  now_ += std::chrono::hours(1000);
  EXPECT_FALSE(never.due());
}

TEST_F(SaveAttemptsTest, AfterAFailureTheNextOneComesSoonAndEachFurtherOneLater) {
  SaveAttempts saves = attempts(15);
  std::vector<int64_t> waits;
  for (int i = 0; i < 7; ++i) {
    waits.push_back(wait(saves));
    saves.began();
    now_ += minutes(40);  // what the save takes does not count
    saves.failed("full");
  }
  EXPECT_THAT(waits, ElementsAre(15, 1, 2, 4, 8, 15, 15));
  saves.began();
  saves.succeeded(70);
  EXPECT_EQ(wait(saves), 15);
  saves.began();
  saves.failed("full");
  EXPECT_EQ(wait(saves), 1);
}

TEST_F(SaveAttemptsTest, EachKindOfFailureIsSaidOnceUntilASaveSucceeds) {
  SaveAttempts saves = attempts(15);
  EXPECT_EQ(saves.failed("step 10 was not saved: 'runs/a' has 1.2 MB free, 0.3 MB more"),
            "step 10 was not saved: 'runs/a' has 1.2 MB free, 0.3 MB more. The run continues and "
            "tries again with its next save, in 1 min at "
            "the latest");
  EXPECT_EQ(saves.failed("step 20 was not saved: 'runs/a' has 0.8 MB free, 0.7 MB more"), "");
  EXPECT_THAT(saves.failed("step 30 was not saved: write 'step-00000030.tmp-0f3a': No space left"),
              HasSubstr("step 30"));
  EXPECT_EQ(saves.failed("step 40 was not saved: write 'step-00000040.tmp-77ab': No space left"),
            "");
  EXPECT_EQ(saves.failed("step 50 was not saved: 'runs/a' has 0.1 MB free, 0.9 MB more"), "");
  EXPECT_EQ(saves.succeeded(60), "step 60 is saved, after 5 saves that failed");
  EXPECT_EQ(saves.succeeded(70), "");
  EXPECT_THAT(saves.failed("step 80 was not saved: 'runs/a' has 0.2 MB free, 0.8 MB more"),
              HasSubstr("step 80"));
  EXPECT_EQ(saves.succeeded(90), "step 90 is saved, after 1 save that failed");
  EXPECT_EQ(attempts(0).failed("full"),
            "full. The run continues and tries again with its next save");
}

}  // namespace
}  // namespace lockstep::train
