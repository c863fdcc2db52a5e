// Ranks as processes on CUDA devices: one that dies in a call is named by the others.
#include <gmock/gmock.h>
#include <signal.h>

#include "comm/process_group.h"
#include "tests/support/devices.h"
#include "tests/support/error_of.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

[[maybe_unused]] const bool kSimulated = test::simulate_devices(2);

void expect_named_when_dying(int devices) {
  constexpr int kRanks = 3, kVictim = 1;
  const auto store = std::make_shared<test::ForkStore>();
  const auto ends = test::fork_ranks(kRanks, [&](int rank) {
    const Device device = test::device_of(rank, devices);
    const auto g =
        create("shm", store, rank, kRanks, {.timeout = std::chrono::seconds(90), .device = device});
    const Tensor t = Tensor::zeros({1 << 18}, DType::f32, device);
    // The victim dies while the others are somewhere in a stream of large calls.
    if (rank == kVictim) {
      g->all_reduce(t).wait();
      const Work running = g->all_reduce(t);
      ::raise(SIGKILL);
    }
    EXPECT_THAT(test::error_of([&] {
                  while (true) g->all_reduce(t).wait();
                }),
                AllOf(HasSubstr("all_reduce #"), HasSubstr("rank 1 (pid "), HasSubstr("died")));
    EXPECT_THAT(test::error_of([&] { g->host().barrier().wait(); }), HasSubstr("died"));
  });
  test::expect_well(ends[0], 0);
  EXPECT_EQ(ends[kVictim].signal, SIGKILL);
  test::expect_well(ends[2], 2);
}

TEST(StagedFaults, ARankThatDiesIsNamedWhereRanksShareADevice) {
  if (test::cuda_devices() == 0) GTEST_SKIP() << test::kNoDevice;
  expect_named_when_dying(1);
}

TEST(StagedFaults, ARankThatDiesIsNamedWhereRanksHaveSeveralDevices) {
  if (test::cuda_devices() == 0) GTEST_SKIP() << test::kNoDevice;
  expect_named_when_dying(2);
}

}  // namespace
}  // namespace lockstep::comm
