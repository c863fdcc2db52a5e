// Queues, events and memory in their order, through what users call. The simulated device runs
// queues in another order each time, so each test tries often.
#include "core/device/queue.h"

#include <cstdlib>

#include <gmock/gmock.h>

#include "core/device/allocator.h"
#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

using ::testing::Each;

// The simulated runtime reads the environment when it is first used, which is after this.
const bool g_two_devices = setenv("LOCKSTEP_SIM_DEVICES", "2", 0) == 0;

constexpr int kTries = 60;
constexpr int64_t kSize = 3000;

class CudaQueues : public CudaTest {};

Tensor filled(double value, Device device = kCuda) {
  return Tensor::full({kSize}, value, DType::f32, device);
}

TEST_F(CudaQueues, WorkOfAnotherQueueComesAfterTheEvent) {
  const Queue other = Queue::create(kCuda);
  for (int i = 1; i <= kTries; ++i) {
    const Tensor source = filled(i), copy = Tensor::empty({kSize}, DType::f32, kCuda);
    Event::record(current_queue(kCuda)).wait(other);
    {
      const QueueScope scope(other);
      copy.copy_(source);
    }
    Event::record(other).wait(current_queue(kCuda));
    EXPECT_THAT(copy.to_vector<float>(), Each(static_cast<float>(i)));
  }
}

TEST_F(CudaQueues, MemoryIsUsedAgainAfterTheWorkOfOtherQueues) {
  const Queue other = Queue::create(kCuda);
  for (int i = 1; i <= kTries; ++i) {
    Tensor source = filled(i);
    const Tensor copy = Tensor::empty({kSize}, DType::f32, kCuda);
    Event::record(current_queue(kCuda)).wait(other);
    {
      const QueueScope scope(other);
      copy.copy_(source);
    }
    source.storage()->used_on(other);
    source = Tensor();
    filled(-1);  // in the memory that was let go, if it is free
    Event::record(other).wait(current_queue(kCuda));
    EXPECT_THAT(copy.to_vector<float>(), Each(static_cast<float>(i)));
  }
}

TEST_F(CudaQueues, ABlockBelongsToTheQueueThatUsedIt) {
  const Queue other = Queue::create(kCuda);
  for (int i = 1; i <= kTries; ++i) {
    Tensor source = filled(i);
    const Tensor copy = source.clone();
    source = Tensor();
    Tensor elsewhere;
    {
      const QueueScope scope(other);
      elsewhere = filled(-1);
      other.synchronize();
    }
    EXPECT_THAT(copy.to_vector<float>(), Each(static_cast<float>(i)));
    elsewhere.storage()->used_on(current_queue(kCuda));
  }
}

TEST_F(CudaQueues, BlocksThatAreGivenBackWaitForTheirQueue) {
  for (int i = 1; i <= kTries; ++i) {
    const Queue other = Queue::create(kCuda);
    Tensor copy;
    {
      const QueueScope scope(other);
      const Tensor source = filled(i);
      copy = source.clone();
    }
    allocator(kCuda).release_cached();
    filled(-1);  // on the main queue, in the memory of `source`, if that is free
    {
      const QueueScope scope(other);
      EXPECT_THAT(copy.to_vector<float>(), Each(static_cast<float>(i)));
      copy = Tensor();
    }
  }
}

TEST_F(CudaQueues, TheHostMayChangePinnedMemoryWhenACopyReturns) {
  for (int i = 1; i <= kTries; ++i) {
    const Tensor host = Tensor::pinned({kSize}, DType::f32, kCuda);
    host.fill_(i);
    const Tensor device = Tensor::empty({kSize}, DType::f32, kCuda);
    device.copy_(host);
    host.fill_(-1);
    EXPECT_THAT(device.to_vector<float>(), Each(static_cast<float>(i)));
    host.copy_(device);
    EXPECT_THAT(host.span<float>(), Each(static_cast<float>(i)));
  }
}

TEST_F(CudaQueues, ACopyThatIsQueuedIsThereAfterItsEvent) {
  for (int i = 1; i <= kTries; ++i) {
    const Tensor host = Tensor::pinned({kSize}, DType::f32, kCuda);
    const Event copied = host.copy_later(filled(i));
    copied.synchronize();
    EXPECT_TRUE(copied.done());
    EXPECT_THAT(host.span<float>(), Each(static_cast<float>(i)));
  }
  const Tensor ordinary = Tensor::empty({kSize});
  EXPECT_THROW(ordinary.copy_later(filled(0)), UsageError);
}

TEST_F(CudaQueues, PinnedMemoryIsUsedAgainAfterItsCopies) {
  for (int i = 1; i <= kTries; ++i) {
    Tensor host = Tensor::pinned({kSize}, DType::f32, kCuda);
    host.fill_(i);
    const Tensor device = Tensor::empty({kSize}, DType::f32, kCuda);
    device.copy_later(host);
    host = Tensor();
    Tensor::pinned({kSize}, DType::f32, kCuda).fill_(-1);
    EXPECT_THAT(device.to_vector<float>(), Each(static_cast<float>(i)));
  }
}

TEST_F(CudaQueues, ACopyBetweenDevicesWaitsForItsSource) {
  if (device_count(DeviceType::cuda) < 2) GTEST_SKIP() << "there is one CUDA device only";
  const Device second{DeviceType::cuda, 1};
  for (int i = 1; i <= kTries; ++i) {
    Tensor source = filled(i, second);
    const Tensor copy = source.to(kCuda);
    source.fill_(-1);  // comes after the copy
    source = Tensor();
    filled(-2, second);
    EXPECT_THAT(copy.to_vector<float>(), Each(static_cast<float>(i)));
  }
}

TEST_F(CudaQueues, MemoryIsCountedAndRunsOutByName) {
  Allocator& memory = allocator(kCuda);
  const int64_t before = memory.stats().total_used_bytes;
  const Tensor some = filled(1);
  EXPECT_EQ(memory.stats().total_used_bytes, before + some.bytes());
  memory.set_limit(memory.stats().reserved_bytes + (int64_t{1} << 20));
  try {
    Tensor::empty({int64_t{64} << 20}, DType::f32, kCuda);
    ADD_FAILURE() << "there was memory beyond the limit";
  } catch (const EnvironmentError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("[cuda:0] out of memory"));
  }
  memory.set_limit(0);
}

TEST_F(CudaQueues, ADeviceThatIsNotThereIsNamed) {
  try {
    Tensor::empty({1}, DType::f32, {DeviceType::cuda, 99});
    ADD_FAILURE() << "there is a cuda:99";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("there is no cuda:99"));
  }
}

}  // namespace
}  // namespace lockstep::testing
