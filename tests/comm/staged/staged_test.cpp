// Groups on CUDA devices over the CPU's backends: what the conformance suite does not see.
#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "tests/support/devices.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr int kDevices = 2;
[[maybe_unused]] const bool kSimulated = test::simulate_devices(kDevices);

constexpr auto kLong = std::chrono::seconds(60);
constexpr Device kNowhere{DeviceType::cuda, 63};

TEST(StagedDevice, OneThatIsNotThereIsRefusedBeforeAnybodyWaitsForTheRank) {
  for (const int ranks : {1, 2})
    EXPECT_THAT(error_of([&] {
                  create("shm", std::make_shared<HashStore>(), 0, ranks, {.device = kNowhere});
                }),
                HasSubstr("[cuda]"));
}

class Staged : public testing::Test {
 protected:
  void SetUp() override {
    if (test::cuda_devices() == 0) GTEST_SKIP() << test::kNoDevice;
  }
  // Two ranks as threads. They have a device each, if there are two.
  void run(const std::function<void(ProcessGroup&)>& body, const GroupOptions& options = {}) {
    const auto store = std::make_shared<HashStore>();
    test::run_threads(2, [&](int rank) {
      GroupOptions own = options;
      own.device = test::device_of(rank, kDevices);
      body(*create("local", store, rank, 2, own));
    });
    EXPECT_EQ(store->size(), 0u);
  }
};

TEST_F(Staged, GroupsSayWhereTheirTensorsAre) {
  run([](ProcessGroup& g) {
    EXPECT_EQ(g.device(), test::device_of(g.rank(), kDevices));
    EXPECT_EQ(g.backend_name(), "staged local");
    EXPECT_EQ(g.allocate({3}, DType::f32).device(), g.device());
    EXPECT_THAT(error_of([&] { g.all_reduce(Tensor::zeros({1})); }), HasSubstr("must be on cuda:"));
    const auto part = g.split(0, g.rank());
    EXPECT_EQ(part->device(), g.device());
    const auto alone = g.split(g.rank(), 0);
    EXPECT_EQ(alone->device(), g.device());
    const Tensor one = Tensor::full({2}, 1, DType::i32, g.device());
    alone->all_reduce(one).wait();
    EXPECT_EQ(one.to_vector<int32_t>(), (std::vector<int32_t>{1, 1}));
  });
}

TEST_F(Staged, TheHostsGroupIsOfTheSameKind) {
  run([](ProcessGroup& g) {
    EXPECT_NE(&g.host(), &g);
    EXPECT_EQ(g.host().backend_name(), "local");
    EXPECT_EQ(g.host().device(), kCpu);
    const Tensor one = Tensor::full({1}, 1, DType::i32);
    g.host().all_reduce(one).wait();
    EXPECT_EQ(one.item(), 2);
    const auto part = g.split(0, -g.rank());
    EXPECT_EQ(part->host().rank(), part->rank());
    EXPECT_EQ(part->host().backend_name(), "local");
  });
}

TEST_F(Staged, AGroupOfOneIsTheIdentity) {
  const Device device = test::device_of(0, kDevices);
  const auto g = create("shm", nullptr, 0, 1, {.device = device});
  const Tensor t = Tensor::full({5}, 3, DType::f32, device),
               all = Tensor::zeros({5}, DType::f32, device);
  g->all_reduce(t).wait();
  g->all_gather(all, t).wait();
  EXPECT_EQ(all.to_vector<float>(), std::vector<float>(5, 3));
  EXPECT_EQ(g->host().device(), kCpu);
}

TEST_F(Staged, ResultsAreThereForEveryQueue) {
  run([](ProcessGroup& g) {
    for (int i = 0; i < 20; ++i) {
      const Tensor t = Tensor::full({1000}, i + g.rank(), DType::i32, g.device());
      g.all_reduce(t).wait();
      const QueueScope other(Queue::create(g.device()));
      ASSERT_EQ(t.to_vector<int32_t>(), std::vector<int32_t>(1000, 2 * i + 1)) << i;
    }
  });
}

// The next call of a lane writes to the pinned memory of the one before.
TEST_F(Staged, PinnedMemoryIsUsedAgain) {
  run([](ProcessGroup& g) {
    const Tensor large = Tensor::full({100'000}, 1, DType::f32, g.device());
    g.all_reduce(large).wait();
    g.host().barrier().wait();
    const auto reserved = [&] { return pinned_allocator(g.device()).stats().reserved_bytes; };
    const int64_t before = reserved();
    for (int i = 0; i < 10; ++i) {
      g.all_reduce(large).wait();
      g.reduce_scatter(large.narrow(0, 0, 1000), large.narrow(0, 1000, 2000)).wait();
    }
    g.host().barrier().wait();
    EXPECT_EQ(reserved(), before);
  });
}

// Whoever gives up, or ends its group, has the other rank's reason.
TEST_F(Staged, FailuresHaveTheirNames) {
  run(
      [](ProcessGroup& g) {
        const Tensor t = Tensor::zeros({10}, DType::f32, g.device());
        if (g.rank() == 0) {
          EXPECT_THAT(error_of([&] { g.all_reduce(t).wait(std::chrono::milliseconds(20)); }),
                      AllOf(HasSubstr("all_reduce #1"), HasSubstr("rank 1 has not arrived")));
        } else {
          // Its host group ends with it, too.
          EXPECT_THAT(error_of([&] { g.host().barrier().wait(); }), HasSubstr("all_reduce #1"));
        }
      },
      {.timeout = kLong});
}

}  // namespace
}  // namespace lockstep::comm
