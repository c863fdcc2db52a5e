// Ranks as processes over NCCL: one that dies in a call is named by the others.
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include "comm/nccl/factory.h"
#include "comm/process_group.h"
#include "comm/ucx/factory.h"
#include "tests/support/devices.h"
#include "tests/support/error_of.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kRanks = 3;
constexpr int kWithoutUcx = 77;
[[maybe_unused]] const bool kSimulated = test::simulate_devices(kRanks);

using Form = std::function<std::unique_ptr<ProcessGroup>(std::shared_ptr<Store> store, int rank,
                                                         const GroupOptions& options)>;

// The second rank comes to a call, and dies before its device does.
void expect_that_a_death_is_named(const Form& form) {
  constexpr int kVictim = 1;
  const auto store = std::make_shared<test::ForkStore>();
  const auto ends = test::fork_ranks(kRanks, [&](int rank) {
    const Device device = test::device_of(rank, kRanks);
    const auto g = form(store, rank, {.timeout = std::chrono::seconds(90), .device = device});
    const Tensor t = Tensor::zeros({1 << 16}, DType::f32, device);
    g->all_reduce(t).synchronize();
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

TEST(NcclDeaths, ARankThatDiesIsNamed) {
  if (test::cuda_devices() < kRanks) GTEST_SKIP() << "needs " << kRanks << " CUDA devices";
  expect_that_a_death_is_named(
      [](std::shared_ptr<Store> store, int rank, const GroupOptions& options) {
        return create("nccl", std::move(store), rank, kRanks, options);
      });
}

// As ranks on several hosts, which learn of a death from UCX alone.
TEST(NcclDeaths, ARankThatDiesIsNamedOverUcx) {
  if (test::cuda_devices() < kRanks) GTEST_SKIP() << "needs " << kRanks << " CUDA devices";
  if (!has_ucx()) GTEST_SKIP() << "this build lacks UCX";
  // Not in this process: one that has loaded UCX cannot fork ranks that use it.
  const auto probe = test::fork_ranks(1, [](int) {
    if (ucx_version().empty()) ::_exit(kWithoutUcx);
  });
  if (probe[0].exit_code == kWithoutUcx) GTEST_SKIP() << "UCX cannot be loaded here";
  expect_that_a_death_is_named(
      [](const std::shared_ptr<Store>& store, int rank, GroupOptions options) {
        const Device device = options.device;
        options.device = kCpu;
        auto host = create("ucx", with_prefix(store, "host"), rank, kRanks, options);
        auto inner = make_ucx(with_prefix(store, "inner"), rank, kRanks, options);
        options.device = device;
        return std::make_unique<ProcessGroup>(make_nccl(std::move(inner), device, options), options,
                                              std::move(host));
      });
}

}  // namespace
}  // namespace lockstep::comm
