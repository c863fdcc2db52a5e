#include "comm/interrupt.h"

#include <atomic>

#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

std::atomic<bool> wanted{false};
bool is_wanted() { return wanted; }
bool is_never_wanted() { return false; }

std::string error_of(const Work& work) {
  try {
    work.wait();
  } catch (const TimeoutError& e) {
    return e.what();
  }
  return "no TimeoutError";
}

class Interrupts : public ::testing::TestWithParam<const char*> {
 protected:
  Interrupts() { wanted = false; }
};

// The other rank never calls, so only the interrupt can end the wait before the test's limit.
TEST_P(Interrupts, EndAWaitAndTheGroup) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    const auto group = create(GetParam(), store, rank, 2, {.timeout = std::chrono::seconds(20)});
    if (rank == 1) {
      store->wait({"waits"}, std::chrono::seconds(60));
      wanted = true;
      store->wait({"ended"}, std::chrono::seconds(60));
      // The first may find that rank 0 had come.
      EXPECT_THROW(
          {
            group->barrier().wait();
            group->barrier().wait();
          },
          EnvironmentError);
      return;
    }
    const InterruptScope scope(&is_wanted);
    const Work work = group->barrier();
    store->set("waits", "");
    const std::string error = error_of(work);
    EXPECT_TRUE(error.find("interrupted") != std::string::npos ||
                error.find("given up") != std::string::npos)
        << error;
    store->set("ended", "");
  });
}

TEST_P(Interrupts, LeaveOtherWaitsAlone) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    const auto group = create(GetParam(), store, rank, 2);
    const InterruptScope scope(&is_never_wanted);
    const Tensor values = Tensor::full({1000}, rank + 1);
    group->all_reduce(values).wait();
    EXPECT_EQ(values.narrow(0, 0, 1).item(), 3);
    group->all_reduce(values).synchronize();
    EXPECT_EQ(values.narrow(0, 0, 1).item(), 6);
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, Interrupts, ::testing::Values("local", "shm"));

}  // namespace
}  // namespace lockstep::comm
