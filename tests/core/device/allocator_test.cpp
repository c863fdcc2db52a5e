#include "core/device/allocator.h"

#include <cstring>
#include <sstream>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "core/base/error.h"
#include "core/device/kernels.h"
#include "core/tensor/storage.h"
#include "gtest/gtest.h"

namespace lockstep {
namespace {

constexpr auto kActivations = MemoryCategory::activations;
constexpr auto kGradients = MemoryCategory::gradients;

TEST(Allocator, BlocksAreAlignedAndWritableInEverySize) {
  auto& a = allocator(kCpu);
  for (size_t bytes : {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{4097}, size_t{65536},
                       size_t{1} << 20, (size_t{2} << 20) + 1, size_t{9} << 20}) {
    void* p = a.allocate(bytes, kActivations);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u) << bytes;
    std::memset(p, 1, bytes);
    a.deallocate(p, bytes, kActivations);
  }
}

TEST(Allocator, AnEqualRequestGetsTheSameBlockAgain) {
  auto& a = allocator(kCpu);
  const size_t bytes = 3'000'001;
  void* first = a.allocate(bytes, kActivations);
  a.deallocate(first, bytes, kActivations);
  const int64_t reserved = a.stats().reserved_bytes;
  void* second = a.allocate(bytes, kActivations);
  EXPECT_EQ(first, second);
  EXPECT_EQ(a.stats().reserved_bytes, reserved);
  a.deallocate(second, bytes, kActivations);
}

TEST(Allocator, AccountsByCategoryWithPeakOfTheSum) {
  auto& a = allocator(kCpu);
  a.reset_peak();
  const MemoryStats before = a.stats();
  void* x = a.allocate(1000, kActivations);
  a.deallocate(x, 1000, kActivations);
  void* y = a.allocate(600, kGradients);
  const MemoryStats now = a.stats();
  EXPECT_EQ(now.used_bytes[static_cast<size_t>(kGradients)] -
                before.used_bytes[static_cast<size_t>(kGradients)],
            600);
  EXPECT_EQ(now.total_used_bytes - before.total_used_bytes, 600);
  EXPECT_EQ(now.peak_bytes[static_cast<size_t>(kActivations)] -
                before.used_bytes[static_cast<size_t>(kActivations)],
            1000);
  EXPECT_EQ(now.total_peak_bytes - before.total_used_bytes, 1000)
      << "the two were never in use at once";
  a.deallocate(y, 600, kGradients);
  a.reset_peak();
  EXPECT_EQ(a.stats().total_peak_bytes, a.stats().total_used_bytes);
}

TEST(Allocator, MemoryOfOthersCountsInItsCategory) {
  auto& a = allocator(kCpu);
  const MemoryStats before = a.stats();
  std::vector<std::byte> memory(5000);
  bool released = false;
  {
    const MemoryScope scope(kGradients);
    const Storage storage(memory.data(), memory.size(), kCpu, [&] { released = true; });
    const MemoryStats now = a.stats();
    EXPECT_EQ(now.used_bytes[static_cast<size_t>(kGradients)] -
                  before.used_bytes[static_cast<size_t>(kGradients)],
              5000);
    EXPECT_EQ(now.external_bytes - before.external_bytes, 5000);
    EXPECT_EQ(now.reserved_bytes, before.reserved_bytes);
  }
  EXPECT_TRUE(released);
  EXPECT_EQ(a.stats().total_used_bytes, before.total_used_bytes);
  EXPECT_EQ(a.stats().external_bytes, before.external_bytes);
}

TEST(Allocator, BeyondItsLimitItSaysWhatWasAskedForAndWhatIsInUse) {
  auto& a = allocator(kCpu);
  a.release_cached();
  const MemoryStats start = a.stats();
  constexpr size_t kSize = size_t{1} << 20;
  a.set_limit(start.reserved_bytes + start.external_bytes + static_cast<int64_t>(2 * kSize));
  void* first = a.allocate(kSize, kGradients);
  // Stays in the cache, and makes room when it must.
  a.deallocate(a.allocate(kSize / 2, kActivations), kSize / 2, kActivations);
  void* second = a.allocate(kSize, kActivations);
  EXPECT_THAT([&] { a.allocate(kSize, MemoryCategory::optimizer); },
              testing::ThrowsMessage<EnvironmentError>(testing::AllOf(
                  testing::HasSubstr("out of memory: 1048576 bytes more for optimizer"),
                  testing::HasSubstr("of a limit of"), testing::HasSubstr("gradients 1048576"))));
  bool released = false;
  std::vector<std::byte> memory(kSize);
  EXPECT_THROW(Storage(memory.data(), memory.size(), kCpu, [&] { released = true; }),
               EnvironmentError);
  EXPECT_TRUE(released) << "memory that is refused goes back to its owner";
  a.deallocate(first, kSize, kGradients);
  a.deallocate(second, kSize, kActivations);
  a.deallocate(a.allocate(kSize, kActivations), kSize, kActivations);
  a.set_limit(0);
  EXPECT_EQ(a.stats().total_used_bytes, start.total_used_bytes);
}

TEST(Allocator, ReleaseGivesFreeBlocksBack) {
  auto& a = allocator(kCpu);
  void* kept = a.allocate(5000, kActivations);
  void* freed = a.allocate(size_t{8} << 20, kActivations);
  a.deallocate(freed, size_t{8} << 20, kActivations);
  a.release_cached();
  EXPECT_LT(a.stats().reserved_bytes, int64_t{8} << 20);
  std::memset(kept, 0, 5000);
  a.deallocate(kept, 5000, kActivations);
}

TEST(Allocator, ThreadsMayShareIt) {
  auto& a = allocator(kCpu);
  const int64_t before = a.stats().total_used_bytes;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&a, t] {
      for (size_t i = 1; i < 300; ++i) {
        auto* p = static_cast<unsigned char*>(a.allocate(i * 501, kActivations));
        std::memset(p, t, i * 501);
        ASSERT_EQ(p[i * 500], t);
        a.deallocate(p, i * 501, kActivations);
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(a.stats().total_used_bytes, before);
}

TEST(Allocator, ImpossibleRequestSaysHowMuch) {
  try {
    allocator(kCpu).allocate(size_t{1} << 60, kActivations);
    FAIL() << "expected an error";
  } catch (const EnvironmentError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr(std::to_string(size_t{1} << 60)));
  }
}

TEST(Device, NamesAndAvailability) {
  std::ostringstream out;
  out << kCpu << " " << Device{DeviceType::cuda, 1};
  EXPECT_EQ(out.str(), "cpu cuda:1");
  EXPECT_TRUE(is_available(kCpu));
  EXPECT_FALSE(is_available({DeviceType::cpu, 1}));
  EXPECT_THROW(kernels({DeviceType::cpu, 1}), UsageError);
  current_queue(kCpu).synchronize();
}

TEST(Device, InstructionSetIsAKnownOne) {
  EXPECT_THAT(std::string(cpu_instruction_set()),
              ::testing::AnyOf("avx512_bf16", "avx512", "avx2", "generic"));
}

}  // namespace
}  // namespace lockstep
