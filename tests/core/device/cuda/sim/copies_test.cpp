// Copies beside a device's other work: what they see, and what waits for them, in every order.
#include <gtest/gtest.h>

#include "core/tensor/device_copies.h"
#include "tests/support/sim_seeds.h"

namespace lockstep {
namespace {

constexpr Device kCuda{DeviceType::cuda, 0};
constexpr int kSeeds = 20;

bool all_are(const Tensor& x, float value) {
  const Tensor host = x.to(kCpu);
  for (const float element : host.span<float>())
    if (element != value) return false;
  return true;
}

TEST(DeviceCopies, SeeWhatWasQueuedBeforeAndNothingLater) {
  EXPECT_EQ(test::seed_that_shows(kSeeds,
                                  [] {
                                    const Tensor x = Tensor::full({1000}, 1, DType::f32, kCuda);
                                    const Tensor host = host_memory_like(x);
                                    x.fill_(2);
                                    DeviceCopies copies;
                                    copies.start(host, x);
                                    x.fill_(3);
                                    copies.wait();
                                    return !all_are(host, 2) || !all_are(x, 3);
                                  }),
            0);
}

TEST(DeviceCopies, ToADeviceAreSeenByLaterWork) {
  EXPECT_EQ(test::seed_that_shows(kSeeds,
                                  [] {
                                    const Tensor x = Tensor::full({1000}, 1, DType::f32, kCuda);
                                    const Tensor host = host_memory_like(x), y = x.clone();
                                    host.fill_(5);
                                    DeviceCopies copies;
                                    copies.start(x, host);
                                    y.copy_(x);
                                    return !all_are(y, 5);
                                  }),
            0);
}

TEST(DeviceCopies, KeepMemoryThatIsLetGo) {
  EXPECT_EQ(test::seed_that_shows(kSeeds,
                                  [] {
                                    const Tensor host = Tensor::pinned({1000}, DType::f32, kCuda);
                                    DeviceCopies copies;
                                    copies.start(host, Tensor::full({1000}, 4, DType::f32, kCuda));
                                    Tensor::full({1000}, 9, DType::f32, kCuda);
                                    copies.wait();
                                    return !all_are(host, 4);
                                  }),
            0);
}

}  // namespace
}  // namespace lockstep
