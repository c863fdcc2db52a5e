// The order of queued work: late, random, and constrained by streams and events alone.
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/device/cuda/sim/runtime.h"
#include "core/device/cuda/sim/seed.h"
#include "tests/core/device/cuda/sim/sim_device.h"
#include "tests/support/sim_seeds.h"

namespace lockstep::cuda::sim {
namespace {

using test::seed_that_shows;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kSeeds = 20;

__global__ void add_kernel(int* x, int value) { x[threadIdx.x] += value; }
__global__ void copy_kernel(int* to, const int* from) { to[threadIdx.x] = from[threadIdx.x]; }

TEST(SimulatedStreams, RunNothingWhenItIsSubmitted) {
  const TestStream stream;
  bool ran = false;
  enqueue("work", stream, [&] { ran = true; });
  EXPECT_FALSE(ran);
  stream.synchronize();
  EXPECT_TRUE(ran);
}

TEST(SimulatedStreams, KeepTheirOwnOrder) {
  EXPECT_EQ(seed_that_shows(kSeeds,
                            [] {
                              const TestStream stream;
                              std::vector<int> order;
                              for (int i = 0; i < 3; ++i)
                                enqueue("work", stream, [&order, i] { order.push_back(i); });
                              stream.synchronize();
                              return order != std::vector<int>{0, 1, 2};
                            }),
            0);
}

// What two streams make of one array. The second one should wait for the first.
bool consumer_is_too_early(bool waits) {
  const TestStream producer, consumer;
  const TestEvent event;
  const Array<int> x(32), y(32);
  ok(api().fill_bytes(x.data(), 0, x.bytes(), producer));
  for (int i = 0; i < 50; ++i) run_independent(producer, 1, 32, add_kernel, x.data(), 1);
  event.record(producer);
  if (waits) event.wait(consumer);
  run_independent(consumer, 1, 32, copy_kernel, y.data(), x.data());
  return y.get(consumer) != std::vector<int>(32, 50);
}

TEST(SimulatedStreams, ShowAMissingWait) {
  EXPECT_NE(seed_that_shows(kSeeds, [] { return consumer_is_too_early(false); }), 0);
  EXPECT_EQ(seed_that_shows(kSeeds, [] { return consumer_is_too_early(true); }), 0);
}

// A buffer is written again while an older reader, far back in another stream, has not run.
bool buffer_is_reused_too_early(bool waits) {
  const TestStream reader, writer;
  const TestEvent event;
  const Array<int> x(32), y(32);
  ok(api().fill_bytes(x.data(), 0, x.bytes(), reader));
  for (int i = 0; i < 50; ++i) run_independent(reader, 1, 32, add_kernel, x.data(), 0);
  run_independent(reader, 1, 32, copy_kernel, y.data(), x.data());
  event.record(reader);
  if (waits) event.wait(writer);
  run_independent(writer, 1, 32, add_kernel, x.data(), 1);
  ok(api().stream_synchronize(writer));
  return y.get(reader) != std::vector<int>(32, 0);
}

TEST(SimulatedStreams, ShowABufferThatIsReusedTooEarly) {
  EXPECT_NE(seed_that_shows(kSeeds, [] { return buffer_is_reused_too_early(false); }), 0);
  EXPECT_EQ(seed_that_shows(kSeeds, [] { return buffer_is_reused_too_early(true); }), 0);
}

// The order in which three streams' work runs.
std::vector<int> order_with(uint64_t seed) {
  run_leftovers();
  set_seed(seed);
  const TestStream a, b, c;
  std::vector<int> order;
  for (int i = 0; i < 10; ++i) {
    enqueue("work", a, [&order] { order.push_back(0); });
    enqueue("work", b, [&order] { order.push_back(1); });
    enqueue("work", c, [&order] { order.push_back(2); });
  }
  for (StreamHandle stream : {StreamHandle(a), StreamHandle(b), StreamHandle(c)})
    ok(api().stream_synchronize(stream));
  return order;
}

TEST(SimulatedStreams, RunInTheOrderOfTheSeed) {
  EXPECT_EQ(order_with(7), order_with(7));
  EXPECT_NE(order_with(7), order_with(8));
}

TEST(SimulatedStreams, RunAfterTheirEnd) {
  bool ran = false;
  {
    const TestStream ended;
    enqueue("work", ended, [&] { ran = true; });
  }
  const Array<int> x(1);
  ok(api().free(nullptr));
  EXPECT_FALSE(ran);
  const TestEvent event;
  const TestStream stream;
  while (!ran) {  // asking for an event executes some of what is queued
    event.record(stream);
    event.done();
  }
}

TEST(SimulatedStreams, AreUnknownAfterTheirEnd) {
  StreamHandle handle = nullptr;
  {
    const TestStream stream;
    handle = stream;
  }
  EXPECT_STREQ(api().error_text(api().stream_synchronize(handle)),
               "invalid resource handle (there is no such stream)");
}

TEST(SimulatedStreams, RunSomeOfVeryManyItemsAtSubmission) {
  const TestStream stream;
  int ran = 0;
  for (int i = 0; i < 10000; ++i) enqueue("work", stream, [&] { ++ran; });
  EXPECT_GT(ran, 0);
  EXPECT_LT(ran, 10000);
  stream.synchronize();
  EXPECT_EQ(ran, 10000);
}

TEST(SimulatedEvents, AreDoneBeforeTheirFirstRecord) {
  const TestEvent event;
  const TestStream stream;
  EXPECT_TRUE(event.done());
  event.wait(stream);
  stream.synchronize();
}

TEST(SimulatedEvents, AreDoneWhenPolledOften) {
  const TestStream stream;
  const TestEvent event;
  int ran = 0;
  for (int i = 0; i < 50; ++i) enqueue("work", stream, [&] { ++ran; });
  event.record(stream);
  EXPECT_FALSE(event.done());
  while (!event.done()) {
  }
  EXPECT_EQ(ran, 50);
}

// A wait is for the record that was the last one when the wait was submitted.
TEST(SimulatedEvents, AreWaitedForAsTheyWere) {
  EXPECT_NE(seed_that_shows(kSeeds,
                            [] {
                              const TestStream first, second, third;
                              const TestEvent event;
                              bool ran = false, early = false;
                              event.record(first);
                              event.wait(third);
                              enqueue("late", second, [&] { ran = true; });
                              event.record(second);
                              enqueue("work", third, [&] { early = !ran; });
                              third.synchronize();
                              second.synchronize();
                              return early;
                            }),
            0);
}

TEST(SimulatedEvents, OrderWorkOfSeveralDevices) {
  EXPECT_EQ(seed_that_shows(kSeeds,
                            [] {
                              const TestStream zero(0), one(1);
                              const TestEvent event(0);
                              const Array<int> x(32, 0), y(32, 1);
                              ok(api().fill_bytes(x.data(), 1, x.bytes(), zero));
                              event.record(zero);
                              event.wait(one);
                              ok(api().copy(y.data(), x.data(), x.bytes(), one));
                              return y.get(one) != std::vector<int>(32, 0x01010101);
                            }),
            0);
}

TEST(SimulatedEvents, BelongToADevice) {
  const TestStream stream(1);
  const TestEvent event(0);
  EXPECT_THAT(api().error_text(api().event_record(event, stream)),
              HasSubstr("an event of device 0 recorded on a stream of device 1"));
}

TEST(SimulatedEvents, TellTheTimeBetweenThem) {
  const TestStream stream;
  const TestEvent start, end;
  float ms = -1;
  EXPECT_NE(api().event_elapsed_ms(start, end, &ms), 0);
  start.record(stream);
  end.record(stream);
  EXPECT_STREQ(api().error_text(api().event_elapsed_ms(start, end, &ms)), "device not ready");
  ok(api().event_synchronize(end));
  ok(api().event_elapsed_ms(start, end, &ms));
  EXPECT_GE(ms, 0.0f);
}

// Each rank adds to what its neighbour had in the round before, on a device of its own.
TEST(SimulatedThreads, ExchangeThroughEvents) {
  constexpr int kRounds = 30;
  const TestStream streams[kDevices]{TestStream(0), TestStream(1)};
  const Array<int> values[kDevices]{Array<int>(32, 0), Array<int>(32, 1)};
  const Array<int> incoming[kDevices]{Array<int>(32, 0), Array<int>(32, 1)};
  const TestEvent added[kDevices]{TestEvent(0), TestEvent(1)};
  const TestEvent taken[kDevices]{TestEvent(0), TestEvent(1)};
  std::atomic<int> step{0};
  const auto meet = [&](int until) {
    ++step;
    while (step < until) std::this_thread::yield();
  };
  const auto rank = [&](int self) {
    const int other = 1 - self;
    ok(api().set_device(self));
    ok(api().fill_bytes(values[self].data(), 0, values[self].bytes(), streams[self]));
    for (int round = 0; round < kRounds; ++round) {
      run_independent(streams[self], 1, 32, add_kernel, values[self].data(), self + 1);
      added[self].record(streams[self]);
      meet(4 * round + 2);
      added[other].wait(streams[self]);
      ok(api().copy(incoming[self].data(), values[other].data(), incoming[self].bytes(),
                    streams[self]));
      taken[self].record(streams[self]);
      if (round % 7 == self) streams[self].synchronize();
      meet(4 * round + 4);
      taken[other].wait(streams[self]);
    }
    EXPECT_THAT(incoming[self].get(streams[self]), Each(kRounds * (other + 1)));
  };
  std::thread one(rank, 1);
  rank(0);
  one.join();
}

TEST(SimulatedWork, WaitsUntilItIsReady) {
  const TestStream stream, other;
  const TestEvent event;
  std::atomic<bool> ready{false};
  std::vector<int> order;
  enqueue(
      "collective", stream, [&] { return ready.load(); }, [&] { order.push_back(1); });
  event.record(stream);
  enqueue("work", other, [&] { order.push_back(0); });
  other.synchronize();
  EXPECT_FALSE(event.done());
  std::thread peer([&] {
    ready = true;
    wake();
  });
  stream.synchronize();
  peer.join();
  EXPECT_THAT(order, ElementsAre(0, 1));
}

TEST(SimulatedWork, MayNotCallTheRuntime) {
  const TestStream stream;
  int error = 0;
  enqueue("work", stream, [&] { error = api().stream_synchronize(stream); });
  stream.synchronize();
  EXPECT_STREQ(api().error_text(error), "operation not permitted (called from within queued work)");
}

TEST(SimulatedWork, FailsLaterCallsIfItThrows) {
  Runtime runtime(Settings{});
  StreamHandle stream = nullptr;
  ok(runtime.stream_create(0, &stream));
  Item item{.name = "product"};
  item.run = [](Random&) { throw std::runtime_error("no such shape"); };
  ok(runtime.enqueue(stream, std::move(item)));
  EXPECT_STREQ(api().error_text(runtime.stream_synchronize(stream)),
               "unspecified launch failure (product: no such shape)");
  void* pointer = nullptr;
  EXPECT_NE(runtime.allocate(0, &pointer, 16), 0);
}

TEST(SimulatedStatistics, CountWhatTheHostAskedFor) {
  run_leftovers();
  const TestStream stream;
  const Array<int> x(32);
  reset_statistics();
  x.set(std::vector<int>(32, 1), stream);
  run_independent(stream, 1, 32, add_kernel, x.data(), 1);
  enqueue("work", stream, [] {});
  x.get(stream);
  stream.synchronize();  // has nothing to wait for
  const Statistics seen = statistics(0);
  EXPECT_EQ(seen.launches, 2);
  EXPECT_EQ(seen.copies, 2);
  EXPECT_EQ(seen.host_waits, 2);  // x.set() reads ordinary memory
  EXPECT_EQ(seen.deepest, 4);
  EXPECT_EQ(statistics(1).launches, 0);
}

}  // namespace
}  // namespace lockstep::cuda::sim
