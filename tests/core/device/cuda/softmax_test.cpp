#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaSoftmax : public CudaTest {};

const std::pair<int64_t, int64_t> kSizes[] = {{0, 5},    {3, 0},    {1, 1},    {3, 5},
                                              {2, 16},   {70, 100}, {130, 7},  {3, 1000},
                                              {9, 1024}, {2, 1025}, {2, 8192}, {2, 9001}};

template <class T>
void check_softmax(int64_t rows, int64_t n, int64_t shift) {
  SCOPED_TRACE(str(rows, "x", n, " shift ", shift, " ", dtype_of<T>()));
  const float mean = 1.0f / static_cast<float>(n + 1);
  const auto x = random_twin<T>(rows * n, 1, -8, 8, shift), y = random_twin<T>(rows * n, 2),
             p = random_twin<T>(rows * n, 3, 0, 2 * mean, shift),
             dy = random_twin<T>(rows * n, 4, -1, 1, shift),
             dx = random_twin<T>(rows * n, 5, -1, 1, shift),
             sum = random_twin<T>(rows * n, 6, -mean, mean);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.softmax(q, dtype_of<T>(), rows, n, x.on(d), y.on(d));
    k.softmax_backward(q, dtype_of<T>(), rows, n, p.on(d), dy.on(d), dx.on(d), false);
    k.softmax_backward(q, dtype_of<T>(), rows, n, p.on(d), dy.on(d), sum.on(d), true);
  });
  y.expect_equal({2e-6 + one_rounding<T>(), 1e-6});
  dx.expect_equal({2e-6 + one_rounding<T>(), mean});
  sum.expect_equal({2e-6 + one_rounding<T>(), mean});
}

TEST_F(CudaSoftmax, ValuesAndGradients) {
  for (auto [rows, n] : kSizes) {
    check_softmax<float>(rows, n, 0);
    check_softmax<BFloat16>(rows, n, 0);
  }
}

TEST_F(CudaSoftmax, UnalignedMemory) {
  check_softmax<float>(3, 64, 1);
  check_softmax<BFloat16>(3, 64, 3);
  check_softmax<BFloat16>(2, 2048, 1);
}

// A masked logit is −infinity. Where it comes first, the running maximum is infinite at first.
TEST_F(CudaSoftmax, MaskedAndSpecialRows) {
  const float inf = INFINITY;
  for (int64_t n : {40, 3000}) {
    auto values = random<float>(6 * n, 1, -3, 3);
    const auto row = [&](int64_t r) { return values.begin() + r * n; };
    std::fill(row(0), row(0) + n - 1, -inf);
    std::fill(row(1) + 1, row(2), -inf);
    std::fill(row(2), row(3), -inf);
    *(row(3) + n / 2) = NAN;
    *(row(4) + n / 2) = inf;
    *(row(5) + n / 2) = 1e30f;
    const Twin<float> x(values), y(random<float>(6 * n, 2));
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.softmax(q, DType::f32, 6, n, x.on(d), y.on(d));
    });
    y.expect_equal({2e-6, 1e-6});
  }
}

// y may lie where x lies, and dx where dy lies.
TEST_F(CudaSoftmax, InPlace) {
  for (int64_t n : {33, 1500}) {
    const auto x = random_twin<float>(3 * n, 1), dy = random_twin<float>(3 * n, 2);
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.softmax(q, DType::f32, 3, n, x.on(d), x.on(d));
      k.softmax_backward(q, DType::f32, 3, n, x.on(d), dy.on(d), dy.on(d), false);
    });
    x.expect_equal({2e-6, 1e-3});
    dy.expect_equal({2e-6, 1e-3});
  }
}

}  // namespace
}  // namespace lockstep::testing
