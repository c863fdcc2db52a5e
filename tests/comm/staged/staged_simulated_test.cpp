// Groups on simulated devices: what they copy, and what they do while a device stands still.
#include <atomic>
#include <thread>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/sim/statistics.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr Device kDevice{DeviceType::cuda, 0};
constexpr auto kLong = std::chrono::seconds(60);

// Two ranks as threads, on one device.
void run(const std::function<void(ProcessGroup&)>& body) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    body(*create("local", store, rank, 2, {.timeout = kLong, .device = kDevice}));
  });
}

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

// On rank 0, whose device stands still. Rank 1 comes to the same call.
void expect_failure(const std::function<void(ProcessGroup&, const Work&)>& give_up,
                    const testing::Matcher<std::string>& said) {
  run([&](ProcessGroup& g) {
    const Queue queue = Queue::create(kDevice);
    const QueueScope scope(queue);
    const Tensor t = Tensor::zeros({1000}, DType::f32, kDevice);
    if (g.rank() == 1) {
      EXPECT_NE(error_of([&] { g.all_reduce(t).wait(); }), "");
      return;
    }
    Obstacle obstacle(queue);
    const Work work = g.all_reduce(t);
    EXPECT_THAT(error_of([&] { give_up(g, work); }), said);
    EXPECT_TRUE(work.done());
  });
}

TEST(StagedSimulated, ADeviceThatStandsStillIsNamedAtTheLimit) {
  expect_failure([](ProcessGroup&, const Work& work) { work.wait(std::chrono::milliseconds(20)); },
                 AllOf(HasSubstr("all_reduce #1"), HasSubstr("given up after a wait of 0.02 s"),
                       HasSubstr("cuda:0 of rank 0 has not done what was queued before the call")));
}

TEST(StagedSimulated, AnAbortEndsTheWaitForADevice) {
  expect_failure(
      [](ProcessGroup& g, const Work& work) {
        g.abort("enough");
        work.wait();
      },
      HasSubstr("rank 0 aborted group 'world': enough"));
}

TEST(StagedSimulated, ACallWaitsForWhatWasQueuedBefore) {
  run([](ProcessGroup& g) {
    const Queue queue = Queue::create(kDevice);
    const QueueScope scope(queue);
    const Tensor t = Tensor::zeros({1000}, DType::i32, kDevice);
    Obstacle obstacle(queue);
    t.fill_(g.rank() + 1);
    const Work work = g.all_reduce(t);
    g.host().barrier().wait();
    EXPECT_FALSE(work.done());
    obstacle.open();
    work.wait();
    EXPECT_EQ(t.to_vector<int32_t>(), std::vector<int32_t>(1000, 3));
  });
}

struct Copies {
  std::string name;
  std::function<Work(ProcessGroup& g, const Tensor& small, const Tensor& large,
                     const Tensor& other)>
      call;
  int64_t expected;  // of two ranks
};

// Only what others need, or have brought, goes over the bus. This rank's own slice stays on the
// device, and is copied there if it moves.
TEST(StagedSimulated, NothingIsCopiedThatNobodyNeeds) {
  using G = ProcessGroup;
  using T = Tensor;
  const auto mine = [](G& g, const T& large) { return large.narrow(0, g.rank() * 10, 10); };
  const std::vector<Copies> all = {
      {"all_reduce", [](G& g, const T& s, const T&, const T&) { return g.all_reduce(s); }, 4},
      {"reduce", [](G& g, const T& s, const T&, const T&) { return g.reduce(s, 0); }, 3},
      {"broadcast", [](G& g, const T& s, const T&, const T&) { return g.broadcast(s, 1); }, 2},
      {"reduce_scatter",
       [](G& g, const T& s, const T& l, const T&) { return g.reduce_scatter(s, l); }, 4},
      {"all_gather", [](G& g, const T& s, const T& l, const T&) { return g.all_gather(l, s); }, 6},
      {"all_gather in place",
       [=](G& g, const T&, const T& l, const T&) { return g.all_gather(l, mine(g, l)); }, 4},
      {"gather", [](G& g, const T& s, const T& l, const T&) { return g.gather(l, s, 0); }, 3},
      {"gather in place",
       [=](G& g, const T&, const T& l, const T&) { return g.gather(l, mine(g, l), 0); }, 2},
      {"scatter", [](G& g, const T& s, const T& l, const T&) { return g.scatter(s, l, 1); }, 3},
      {"scatter in place",
       [=](G& g, const T&, const T& l, const T&) { return g.scatter(mine(g, l), l, 1); }, 2},
      {"all_to_all", [](G& g, const T&, const T& l, const T& o) { return g.all_to_all(o, l); }, 6},
      {"message",
       [](G& g, const T& s, const T&, const T&) {
         return g.rank() == 0 ? g.send(s, 1) : g.recv(s, 0);
       },
       2},
      {"barrier", [](G& g, const T&, const T&, const T&) { return g.barrier(); }, 0}};
  run([&](ProcessGroup& g) {
    const Tensor small = Tensor::zeros({10}, DType::f32, kDevice),
                 large = Tensor::zeros({20}, DType::f32, kDevice),
                 other = Tensor::zeros({20}, DType::f32, kDevice);
    for (const Copies& c : all) {
      current_queue(kDevice).synchronize();
      g.host().barrier().wait();
      const int64_t before = cuda::sim::statistics(0).copies;
      g.host().barrier().wait();
      c.call(g, small, large, other).wait();
      g.host().barrier().wait();
      EXPECT_EQ(cuda::sim::statistics(0).copies - before, c.expected) << c.name;
      g.host().barrier().wait();  // to let go of memory counts, too
    }
  });
}

}  // namespace
}  // namespace lockstep::comm
