// The memory of simulated devices, copies, and accesses that fault.
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/device/cuda/sim/memory/protection.h"
#include "core/device/cuda/sim/settings.h"
#include "tests/core/device/cuda/sim/sim_device.h"
#include "tests/support/error_of.h"
#include "tests/support/sim_seeds.h"

namespace lockstep::cuda::sim {
namespace {

using test::error_of;
using ::testing::Each;
using ::testing::HasSubstr;

__global__ void set_kernel(int* x, int64_t at) { x[at] = 1; }

struct Pinned {
  explicit Pinned(size_t size) {
    void* pointer = nullptr;
    ok(api().allocate_pinned(&pointer, size * sizeof(int)));
    data = static_cast<int*>(pointer);
  }
  ~Pinned() { api().free_pinned(data); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  int* data;
};

TEST(SimulatedDevices, AreAsManyAsAskedFor) {
  int count = 0;
  ok(api().device_count(&count));
  EXPECT_EQ(count, kDevices);
  DeviceProperties properties, others;
  ok(api().properties(0, &properties));
  ok(api().properties(1, &others));
  EXPECT_EQ(properties.name, "simulated GPU");
  EXPECT_EQ(properties.memory_bytes, static_cast<int64_t>(kMemory));
  EXPECT_NE(properties.uuid, others.uuid);
  // NVIDIA's runtime would take device 0, and hold memory there.
  std::thread([] {
    void* data = nullptr;
    EXPECT_STREQ(api().error_text(api().allocate(&data, 8)),
                 "invalid device ordinal (the thread has set no device)");
  }).join();
  EXPECT_STREQ(api().error_text(api().set_device(2)),
               "invalid device ordinal (expected a device from 0 to 1, got 2)");
}

TEST(SimulatedMemory, IsAlignedAndFullOfOnes) {
  const TestStream stream;
  for (size_t size : {1, 63, 64, 65, 5000}) {
    const Array<int> x(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data()) % 256, 0u);
    EXPECT_THAT(x.get(stream), Each(-1));
  }
}

TEST(SimulatedMemory, RunsOut) {
  ok(api().set_device(1));
  size_t left = 0, total = 0;
  ok(api().memory_info(&left, &total));
  EXPECT_EQ(total, kMemory);
  EXPECT_EQ(left, total);
  void *most = nullptr, *more = nullptr;
  ok(api().allocate(&most, kMemory - 1000));
  ok(api().memory_info(&left, &total));
  EXPECT_LE(left, 1000u);
  const int error = api().allocate(&more, 2000);
  EXPECT_TRUE(is_out_of_memory(error));
  EXPECT_STREQ(api().error_text(error), "out of memory");
  EXPECT_TRUE(is_out_of_memory(api().allocate(&more, SIZE_MAX - 10)));
  ok(api().free(most));
  ok(api().memory_info(&left, &total));
  EXPECT_EQ(left, total);
}

TEST(SimulatedMemory, IsFreedOnce) {
  ok(api().set_device(0));
  void* pointer = nullptr;
  ok(api().allocate(&pointer, 1000));
  EXPECT_NE(api().free(static_cast<char*>(pointer) + 256), 0);
  ok(api().free(pointer));
  EXPECT_THAT(api().error_text(api().free(pointer)), HasSubstr("no allocation begins at"));
  EXPECT_NE(api().free_pinned(pointer), 0);
}

TEST(SimulatedMemory, IsFreedAfterTheWorkOfItsDevice) {
  const TestStream a, b;
  int ran = 0;
  void* pointer = nullptr;
  ok(api().allocate(&pointer, 1000));
  enqueue("work", a, [&] { ++ran; });
  enqueue("work", b, [&] { ++ran; });
  ok(api().free(pointer));
  EXPECT_EQ(ran, 2);
}

TEST(SimulatedMemory, IsPoisonedInTheOrderOfAStream) {
  const TestStream stream;
  const Array<int> x(32), y(32);
  x.set(std::vector<int>(32, 5), stream);
  ok(api().copy(y.data(), x.data(), x.bytes(), stream));
  ok(api().poison(x.data(), x.bytes(), stream));
  EXPECT_THAT(x.get(stream), Each(-1));
  EXPECT_THAT(y.get(stream), Each(5));
}

// A block that one stream frees while another one still reads it.
TEST(SimulatedMemory, ShowsAFreeOnTheWrongStream) {
  EXPECT_NE(test::seed_that_shows(20,
                                  [] {
                                    const TestStream owner, reader;
                                    const TestEvent event;
                                    const Array<int> x(32), y(32);
                                    x.set(std::vector<int>(32, 5), owner);
                                    event.record(owner);
                                    event.wait(reader);
                                    ok(api().copy(y.data(), x.data(), x.bytes(), reader));
                                    ok(api().poison(x.data(), x.bytes(), owner));
                                    return y.get(reader) != std::vector<int>(32, 5);
                                  }),
            0);
}

TEST(SimulatedCopies, ReadOrdinaryMemoryAtOnceAndPinnedMemoryLate) {
  const TestStream stream;
  const Array<int> from_ordinary(1), from_pinned(1);
  std::vector<int> ordinary{1};
  const Pinned pinned(1);
  *pinned.data = 1;
  from_ordinary.set(ordinary, stream);
  ok(api().copy(from_pinned.data(), pinned.data, sizeof(int), stream));
  ordinary[0] = *pinned.data = 2;
  EXPECT_THAT(from_ordinary.get(stream), Each(1));
  EXPECT_THAT(from_pinned.get(stream), Each(2));
}

TEST(SimulatedCopies, WritePinnedMemoryLate) {
  const TestStream stream;
  const Array<int> x(1);
  const Pinned pinned(1);
  *pinned.data = 3;
  x.set({7}, stream);
  ok(api().copy(pinned.data, x.data(), sizeof(int), stream));
  EXPECT_EQ(*pinned.data, 3);
  stream.synchronize();
  EXPECT_EQ(*pinned.data, 7);
}

TEST(SimulatedCopies, StayInOneAllocation) {
  const TestStream stream;
  const Array<int> x(32);
  std::vector<int> host(33);
  EXPECT_THAT(api().error_text(api().copy(x.data(), host.data(), 33 * sizeof(int), stream)),
              HasSubstr("do not lie in one allocation"));
  EXPECT_THAT(api().error_text(api().fill_bytes(x.data() + 1, 0, 32 * sizeof(int), stream)),
              HasSubstr("do not lie in one allocation"));
  EXPECT_THAT(api().error_text(api().fill_bytes(host.data(), 0, 4, stream)),
              HasSubstr("ordinary memory of the host"));
  ok(api().copy(x.data(), host.data(), 0, stream));
}

class SimulatedFaults : public ::testing::Test {
 protected:
  // A child that only forked could not use the device.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(SimulatedFaults, StopTheHostThatReadsDeviceMemory) {
  EXPECT_DEATH(
      {
        const Array<int> x(32);
        std::_Exit(*static_cast<volatile int*>(x.data()));
      },
      "the host touched memory of device 0 at 0x");
}

TEST_F(SimulatedFaults, StopTheHostBesideQueuedWork) {
  EXPECT_DEATH(
      {
        const TestStream stream(1);
        const Array<int> x(32, 1);
        x.set(std::vector<int>(32), stream);
        x.get(stream);
        std::memset(x.data(), 0, x.bytes());
      },
      "the host touched memory of device 1 at 0x");
}

TEST_F(SimulatedFaults, StopAnotherThreadWhileQueuedWorkRuns) {
  if (Settings::read().protection != Protection::keys) GTEST_SKIP() << "needs protection keys";
  EXPECT_DEATH(
      {
        const TestStream stream;
        const Array<int> x(32);
        std::atomic<bool> runs{false};
        std::thread other([&] {
          while (!runs) std::this_thread::yield();
          *static_cast<volatile int*>(x.data()) = 1;
        });
        enqueue("work", stream, [&] {
          *x.data() = 1;
          runs = true;
          other.join();
        });
        stream.synchronize();
      },
      "the host touched memory of device 0 at 0x");
}

TEST_F(SimulatedFaults, StopAKernelThatLeavesItsAllocation) {
  EXPECT_DEATH(
      {
        const TestStream stream;
        const Array<int> x(64);
        run_independent(stream, 1, 32, set_kernel, x.data(), int64_t{64});
        stream.synchronize();
      },
      "kernel test_kernel, block 0, thread .*, touched memory of device 0 at .*: freed, beyond");
}

TEST_F(SimulatedFaults, StopAKernelThatUsesFreedMemory) {
  EXPECT_DEATH(
      {
        const TestStream stream;
        void* x = nullptr;
        ok(api().allocate(&x, 1000));
        ok(api().free(x));
        run(stream, 1, 32, set_kernel, static_cast<int*>(x), int64_t{0});
        stream.synchronize();
      },
      "kernel test_kernel, block 0, thread .*, touched memory of device 0 at .*: freed, beyond");
}

TEST_F(SimulatedFaults, StopACopyWithFreedPinnedMemory) {
  EXPECT_DEATH(
      {
        const TestStream stream;
        const Array<int> x(1);
        {
          const Pinned pinned(1);
          ok(api().copy(x.data(), pinned.data, sizeof(int), stream));
        }
        stream.synchronize();
      },
      "queued work \\(copy\\) touched pinned memory at .*: freed");
}

TEST_F(SimulatedFaults, LeaveOtherFaultsAlone) {
  EXPECT_DEATH(
      {
        std::signal(SIGSEGV, [](int) { std::_Exit(write(STDERR_FILENO, "mine\n", 5) == 5); });
        const Array<int> x(1);
        *static_cast<volatile char*>(reserve_addresses(page_size())) = 1;
      },
      "^mine");
}

TEST_F(SimulatedFaults, EndTheUseOfCudaInAForkedChild) {
  const TestStream stream;
  const pid_t child = fork();
  if (child == 0) {
    const int error = api().stream_synchronize(stream);
    _exit(std::strstr(api().error_text(error), "before it forked") ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(SimulatedSettings, ComeFromTheEnvironment) {
  setenv("LOCKSTEP_SIM_SEED", "17", 1);
  EXPECT_EQ(Settings::read().seed, 17u);
  setenv("LOCKSTEP_SIM_SEED", "many", 1);
  EXPECT_THAT(error_of([] { Settings::read(); }),
              HasSubstr("LOCKSTEP_SIM_SEED: expected a number from 0 to"));
  unsetenv("LOCKSTEP_SIM_SEED");
  setenv("LOCKSTEP_SIM_DEVICES", "65", 1);
  EXPECT_EQ(error_of([] { Settings::read(); }),
            "LOCKSTEP_SIM_DEVICES: expected a number from 0 to 64, got '65'");
  setenv("LOCKSTEP_SIM_DEVICES", "2", 1);
  setenv("LOCKSTEP_SIM_PROTECTION", "locks", 1);
  EXPECT_EQ(error_of([] { Settings::read(); }),
            "LOCKSTEP_SIM_PROTECTION: expected keys or pages, got 'locks'");
  unsetenv("LOCKSTEP_SIM_PROTECTION");
  EXPECT_EQ(Settings::read().protection, keys_work() ? Protection::keys : Protection::pages);
}

}  // namespace
}  // namespace lockstep::cuda::sim
