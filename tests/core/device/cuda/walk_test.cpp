#include "core/device/cuda/kernels/walk.h"

#include <gtest/gtest.h>

namespace lockstep::cuda {
namespace {

TEST(CudaDivider, MultipliesWhereItDivided) {
  std::vector<int64_t> numbers;
  for (int64_t power = 1; power <= int64_t{1} << 31; power *= 2)
    for (int64_t n : {power - 1, power, power + 1, power / 3, 7 * (power / 5)})
      if (n > 0 && n <= UINT32_MAX) numbers.push_back(n);
  numbers.push_back(UINT32_MAX);
  for (int64_t d : numbers) {
    const Divider divider(d);
    EXPECT_EQ(divider.divide(0, true), 0);
    for (int64_t n : numbers) {
      ASSERT_EQ(divider.divide(n, true), n / d) << n << " / " << d;
      ASSERT_EQ(divider.divide(n, false), n / d) << n << " / " << d;
    }
  }
}

TEST(CudaDivider, LargeNumbersAreDivided) {
  const int64_t d = (int64_t{1} << 33) + 1;
  EXPECT_EQ(Divider(d).divide(5 * d - 1, false), 4);
  EXPECT_EQ(Divider(3).divide(3 * d, false), d);
}

}  // namespace
}  // namespace lockstep::cuda
