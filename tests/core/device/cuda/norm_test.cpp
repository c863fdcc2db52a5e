#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaNorm : public CudaTest {};

// Around the rows that a warp, a block and the largest block take, and the blocks of rows of the
// backward pass.
const std::pair<int64_t, int64_t> kSizes[] = {
    {0, 7},    {3, 0},    {1, 1},    {3, 5},      {2, 16},   {5, 33},   {70, 100},
    {130, 7},  {600, 40}, {3, 1000}, {9, 1024},   {2, 1025}, {5, 2048}, {3, 2049},
    {9, 4100}, {3, 8192}, {6, 9001}, {700, 1030}, {17000, 3}};

struct Wants {
  bool weight = true, bias = true;    // inputs
  bool dweight = true, dbias = true;  // gradients
  bool accumulate_dx = false, accumulate = false;
};

double root(int64_t n) { return std::sqrt(static_cast<double>(n) + 1.0); }

// With the kernels' words behind the rows, which a CPU leaves alone.
Twin<float> room_for_rstd(int64_t rows) {
  std::vector<float> values = random<float>(rows, 10);
  values.resize(values.size() + kNormWords);
  return Twin<float>(values);
}

template <class T>
void check_norm(bool centred, int64_t rows, int64_t n, const Wants& wants, int64_t shift = 0) {
  SCOPED_TRACE(str(centred ? "layer norm " : "RMS norm ", rows, "x", n, " ", dtype_of<T>()));
  const float eps = 1e-2f;
  const auto x = random_twin<T>(rows * n, 1, -1, 3, shift), y = random_twin<T>(rows * n, 2),
             dy = random_twin<T>(rows * n, 3, -1, 1, shift),
             dx = random_twin<T>(rows * n, 4, -1, 1, shift);
  const auto w = random_twin<float>(n, 5, 0.5f, 1.5f), b = random_twin<float>(n, 6),
             dw = random_twin<float>(n, 7), db = random_twin<float>(n, 8),
             mean = random_twin<float>(rows, 9);
  const Twin<float> rstd = room_for_rstd(rows);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    const float* weight = wants.weight ? w.on(d) : nullptr;
    const float* bias = wants.bias ? b.on(d) : nullptr;
    float* dweight = wants.dweight ? dw.on(d) : nullptr;
    float* dbias = wants.dbias ? db.on(d) : nullptr;
    if (centred) {
      k.layer_norm(q, dtype_of<T>(), rows, n, eps, x.on(d), weight, bias, y.on(d), mean.on(d),
                   rstd.on(d));
      k.layer_norm_backward(q, dtype_of<T>(), rows, n, x.on(d), weight, mean.on(d), rstd.on(d),
                            dy.on(d), dx.on(d), wants.accumulate_dx, dweight, wants.accumulate,
                            dbias, wants.accumulate);
    } else {
      k.rms_norm(q, dtype_of<T>(), rows, n, eps, x.on(d), weight, y.on(d), rstd.on(d));
      k.rms_norm_backward(q, dtype_of<T>(), rows, n, x.on(d), weight, rstd.on(d), dy.on(d),
                          dx.on(d), wants.accumulate_dx, dweight, wants.accumulate);
    }
  });
  mean.expect_equal({1e-6, 1.0});
  rstd.expect_equal({2e-6, 1e-3});
  // A row of one element cancels, and 1/sqrt(eps) makes what is left larger.
  y.expect_equal({2e-5 + one_rounding<T>(), 1.0});
  dx.expect_equal({4e-5 + one_rounding<T>(), 1.0});
  dw.expect_equal({4e-6, root(rows)});
  db.expect_equal({1e-6, root(rows)});
}

TEST_F(CudaNorm, LayerNorm) {
  for (auto [rows, n] : kSizes) {
    check_norm<float>(true, rows, n, {});
    check_norm<BFloat16>(true, rows, n, {});
  }
}

TEST_F(CudaNorm, RmsNorm) {
  for (auto [rows, n] : kSizes) {
    check_norm<float>(false, rows, n, {});
    check_norm<BFloat16>(false, rows, n, {});
  }
}

TEST_F(CudaNorm, AddsToGradients) {
  for (bool centred : {true, false})
    for (auto [rows, n] : {std::pair<int64_t, int64_t>{0, 7}, {70, 100}, {5, 2048}, {6, 9001}}) {
      check_norm<float>(centred, rows, n, {.accumulate_dx = true, .accumulate = true});
      check_norm<BFloat16>(centred, rows, n, {.accumulate_dx = true, .accumulate = true});
    }
}

TEST_F(CudaNorm, WithoutSomeOfWeightAndBias) {
  for (bool centred : {true, false})
    for (int64_t n : {100, 2048, 9001})
      for (int left_out = 1; left_out < 16; ++left_out)
        check_norm<float>(centred, 6, n,
                          {.weight = (left_out & 1) == 0,
                           .bias = (left_out & 2) == 0,
                           .dweight = (left_out & 4) == 0,
                           .dbias = (left_out & 8) == 0});
}

TEST_F(CudaNorm, UnalignedMemory) {
  for (bool centred : {true, false})
    for (int64_t n : {64, 1536, 9216}) {
      check_norm<float>(centred, 5, n, {}, 1);
      check_norm<BFloat16>(centred, 5, n, {}, 3);
    }
}

// What a pass has counted behind the statistics does not reach the next one.
TEST_F(CudaNorm, GoesBackTwice) {
  const int64_t rows = 700, n = 40;
  const auto x = random_twin<float>(rows * n, 1), y = random_twin<float>(rows * n, 2),
             dx = random_twin<float>(rows * n, 3);
  const auto dw = random_twin<float>(n, 4);
  const Twin<float> rstd = room_for_rstd(rows);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.rms_norm(q, DType::f32, rows, n, 1e-2f, x.on(d), nullptr, y.on(d), rstd.on(d));
    for (int pass = 0; pass < 2; ++pass)
      k.rms_norm_backward(q, DType::f32, rows, n, x.on(d), nullptr, rstd.on(d), y.on(d), dx.on(d),
                          false, dw.on(d), true);
  });
  dw.expect_equal({4e-6, root(rows)});
}

// A large mean cancels. The second pass over a row keeps the variance exact.
TEST_F(CudaNorm, LargeMean) {
  const auto x = random_twin<float>(3 * 700, 1, 9999.0f, 10001.0f), y = random_twin<float>(2100, 2);
  const auto mean = random_twin<float>(3, 3);
  const Twin<float> rstd = room_for_rstd(3);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.layer_norm(q, DType::f32, 3, 700, 1e-5f, x.on(d), nullptr, nullptr, y.on(d), mean.on(d),
                 rstd.on(d));
  });
  mean.expect_equal({1e-6, 1.0});
  rstd.expect_equal({1e-4, 1.0});
  y.expect_equal({5e-3, 1.0});
}

}  // namespace
}  // namespace lockstep::testing
