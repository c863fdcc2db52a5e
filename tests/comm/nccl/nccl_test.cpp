// Groups over NCCL: what the conformance suite does not see.
#include <gmock/gmock.h>

#include "tests/comm/nccl/nccl_ranks.h"
#include "tests/support/error_of.h"

namespace lockstep::comm {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

[[maybe_unused]] const bool kSimulated = test::simulate_devices(test::kNcclDevices);

TEST(NcclGroup, OneOnTheCpuIsRefused) {
  EXPECT_THAT(error_of([] { create("nccl", std::make_shared<HashStore>(), 0, 1); }),
              HasSubstr("'nccl' is for CUDA devices, and the group's device is cpu"));
}

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    if (test::cuda_devices() < 2) GTEST_SKIP() << "NCCL needs two CUDA devices";
  }
};

TEST_F(Nccl, GroupsSayWhatTheyAre) {
  test::run_nccl(2, [](ProcessGroup& g) {
    EXPECT_EQ(g.backend_name(), "nccl");
    EXPECT_EQ(g.device(), DeviceScope::current());
    EXPECT_EQ(g.allocate({3}, DType::f32).device(), g.device());
    EXPECT_EQ(g.host().backend_name(), "shm");
    const auto part = g.split(0, -g.rank());
    EXPECT_EQ(part->backend_name(), "nccl");
    EXPECT_EQ(part->rank(), 1 - g.rank());
    const Tensor t = Tensor::full({5}, part->rank(), DType::i32, g.device());
    part->broadcast(t, 1).wait();
    EXPECT_EQ(t.to_vector<int32_t>(), std::vector<int32_t>(5, 1));
  });
}

TEST_F(Nccl, RanksThatShareACardAreRefusedByName) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    EXPECT_THAT(error_of([&] {
                  create("nccl", store, rank, 2, {.device = {DeviceType::cuda, 0}});
                }),
                AllOf(HasSubstr("ranks 0 and 1 share the card"), HasSubstr("NCCL")));
  });
}

TEST_F(Nccl, AutoTakesItWhereEachRankHasACard) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    const auto apart = create("auto", store, rank, 2, {.device = {DeviceType::cuda, rank}});
    EXPECT_EQ(apart->backend_name(), "nccl");
    const auto shared = create("auto", store, rank, 2, {.device = {DeviceType::cuda, 0}});
    EXPECT_EQ(shared->backend_name(), "staged shm");
  });
}

// The order of NCCL's own sums is a ring's.
TEST_F(Nccl, FastSumsAreTheSameOnAllRanks) {
  if (test::cuda_devices() < 4) GTEST_SKIP() << "needs four CUDA devices";
  std::vector<std::vector<float>> fast(4), tree(4);
  for (const Reduction reduction : {Reduction::fast, Reduction::tree})
    test::run_nccl(4,
                   [&](ProcessGroup& g) {
                     std::vector<float> mine;
                     for (int i = 0; i < 5000; ++i)
                       mine.push_back(0.1f * static_cast<float>(i * (g.rank() + 3)));
                     const Tensor t = Tensor::from(mine, {5000}).to(g.device());
                     g.all_reduce(t).wait();
                     (reduction == Reduction::fast ? fast : tree)[static_cast<size_t>(g.rank())] =
                         t.to_vector<float>();
                   },
                   {.timeout = std::chrono::seconds(60), .reduction = reduction});
  for (size_t rank = 1; rank < 4; ++rank) {
    EXPECT_EQ(fast[rank], fast[0]);
    EXPECT_EQ(tree[rank], tree[0]);
  }
  for (size_t i = 0; i < 5000; ++i) ASSERT_NEAR(fast[0][i], tree[0][i], 1e-3 * tree[0][i]) << i;
}

TEST_F(Nccl, WorksAccountForWhatTheirQueuesWaited) {
  test::run_nccl(2, [](ProcessGroup& g) {
    const Tensor t = Tensor::full({1 << 16}, 1, DType::f32, g.device());
    const Work work = g.all_reduce(t);
    work.wait();
    work.synchronize();
    current_queue(g.device()).synchronize();
    EXPECT_TRUE(work.done());
    EXPECT_GT(work.duration(), Duration::zero());
    EXPECT_GT(work.exposed(), Duration::zero());
  });
}

}  // namespace
}  // namespace lockstep::comm
