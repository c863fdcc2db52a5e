// The order of calls on simulated devices: what waits for what, whatever order a device runs its
// queues in.
#include <atomic>

#include <gmock/gmock.h>

#include "core/device/cuda/sim/launch.h"
#include "tests/comm/nccl/nccl_ranks.h"
#include "tests/support/sim_seeds.h"

namespace lockstep::comm {
namespace {

[[maybe_unused]] const bool kSimulated = test::simulate_devices(test::kNcclDevices);

constexpr int kSeeds = 8;

// Holds up a queue until it is opened.
class Obstacle {
 public:
  explicit Obstacle(const Queue& queue) {
    cuda::sim::enqueue(
        "obstacle", queue.native(), [open = open_] { return open->load(); }, [] {});
  }
  ~Obstacle() { open(); }
  void open() {
    open_->store(true);
    cuda::sim::wake();
  }

 private:
  const std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(false);
};

TEST(NcclOrder, WaitReturnsBeforeTheDeviceHasComeToTheCall) {
  test::run_nccl(2, [](ProcessGroup& g) {
    const Queue queue = Queue::create(g.device());
    const QueueScope scope(queue);
    const Tensor t = Tensor::zeros({10000}, DType::i32, g.device());
    Obstacle obstacle(queue);
    t.fill_(g.rank() + 1);
    const Work work = g.all_reduce(t);
    work.wait();
    g.host().barrier().wait();
    EXPECT_FALSE(work.done());
    obstacle.open();
    work.synchronize();
    EXPECT_TRUE(work.done());
    EXPECT_EQ(t.to_vector<int32_t>(), std::vector<int32_t>(10000, 3));
  });
}

// A kernel writes, a call sums, a kernel reads: on one queue, and on another one than the call's.
TEST(NcclOrder, CallsWaitForWritersAndReadersForCalls) {
  const int shown = test::seed_that_shows(kSeeds, [] {
    std::atomic<int> wrong{0};
    test::run_nccl(2, [&](ProcessGroup& g) {
      const Tensor t = Tensor::zeros({5000}, DType::i32, g.device());
      const Tensor all = Tensor::zeros({10000}, DType::i32, g.device());
      for (int i = 0; i < 6; ++i) {
        t.fill_(i + g.rank());
        const Work sum = g.all_reduce(t);
        sum.wait();
        const Work gather = g.all_gather(all, t);
        const Queue other = Queue::create(g.device());
        const QueueScope scope(other);
        gather.wait();
        const Tensor copy = all.clone();
        wrong += copy.to_vector<int32_t>() != std::vector<int32_t>(10000, 2 * i + 1);
      }
    });
    return wrong > 0;
  });
  EXPECT_EQ(shown, 0) << "the first seed with wrong results";
}

// Memory that is let go while the group's queue uses it is given to nobody before that.
TEST(NcclOrder, MemoryStaysUntilTheCallHasUsedIt) {
  const int shown = test::seed_that_shows(kSeeds, [] {
    std::atomic<int> wrong{0};
    test::run_nccl(2, [&](ProcessGroup& g) {
      for (int i = 0; i < 6; ++i) {
        const Tensor all = Tensor::zeros({10000}, DType::i32, g.device());
        Work gather;
        {
          const Tensor mine = Tensor::full({5000}, i + g.rank(), DType::i32, g.device());
          gather = g.all_gather(all, mine);
          // All ranks have come, and the call has let go of the tensor. Its queue is not this one.
          const QueueScope aside(Queue::create(g.device()));
          gather.wait();
        }
        const Tensor next = Tensor::full({5000}, -1, DType::i32, g.device());
        gather.wait();
        std::vector<int32_t> expected(10000, i);
        std::fill(expected.begin() + 5000, expected.end(), i + 1);
        wrong += all.to_vector<int32_t>() != expected;
      }
    });
    return wrong > 0;
  });
  EXPECT_EQ(shown, 0) << "the first seed with wrong results";
}

// Messages come in another order than collectives on the two ranks.
TEST(NcclOrder, MessagesAndCollectivesPassEachOther) {
  test::run_nccl(2, [](ProcessGroup& g) {
    const Tensor message = Tensor::full({1000}, g.rank(), DType::i32, g.device());
    const Tensor back = Tensor::full({1000}, 7, DType::i32, g.device());
    const Tensor sum = Tensor::full({5000}, 1, DType::i32, g.device());
    std::vector<Work> works;
    if (g.rank() == 0) {
      works.push_back(g.send(back, 1));
      works.push_back(g.recv(message, 1));
      works.push_back(g.all_reduce(sum));
    } else {
      works.push_back(g.all_reduce(sum));
      works.push_back(g.send(message, 0));
      works.push_back(g.recv(back, 0));
    }
    for (const Work& work : works) work.wait();
    EXPECT_EQ(message.to_vector<int32_t>(), std::vector<int32_t>(1000, 1));
    EXPECT_EQ(back.to_vector<int32_t>(), std::vector<int32_t>(1000, 7));
    EXPECT_EQ(sum.to_vector<int32_t>(), std::vector<int32_t>(5000, 2));
  });
}

}  // namespace
}  // namespace lockstep::comm
