// Ranks as processes over NCCL: one that dies in a call is named by the others.
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

constexpr int kRanks = 3;
[[maybe_unused]] const bool kSimulated = test::simulate_devices(kRanks);

TEST(NcclDeaths, ARankThatDiesIsNamed) {
  if (test::cuda_devices() < kRanks) GTEST_SKIP() << "needs " << kRanks << " CUDA devices";
  constexpr int kVictim = 1;
  const auto store = std::make_shared<test::ForkStore>();
  const auto ends = test::fork_ranks(kRanks, [&](int rank) {
    const Device device = test::device_of(rank, kRanks);
    const auto g = create("nccl", store, rank, kRanks,
                          {.timeout = std::chrono::seconds(90), .device = device});
    const Tensor t = Tensor::zeros({1 << 16}, DType::f32, device);
    g->all_reduce(t).synchronize();
    // The victim comes to the call, and dies before its device does.
    const Work work = g->all_reduce(t);
    work.wait();
    if (rank == kVictim) ::raise(SIGKILL);
    EXPECT_THAT(test::error_of([&] {
                  work.synchronize();
                  while (true) g->all_reduce(t).synchronize();
                }),
                AllOf(HasSubstr("all_reduce #"), HasSubstr("rank 1"), HasSubstr("died")));
    t.to(kCpu);  // the queue goes on
    EXPECT_THAT(test::error_of([&] { g->host().barrier().wait(); }), HasSubstr("died"));
  });
  test::expect_well(ends[0], 0);
  EXPECT_EQ(ends[kVictim].signal, SIGKILL);
  test::expect_well(ends[2], 2);
}

}  // namespace
}  // namespace lockstep::comm
