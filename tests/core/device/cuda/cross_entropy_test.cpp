#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaCrossEntropy : public CudaTest {};

constexpr int32_t kIgnore = -100;

// Targets in range, of which every `period`-th is ignored; 0: none.
std::vector<int32_t> targets_of(int64_t rows, int64_t classes, int64_t period) {
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r)
    targets.push_back(period > 0 && r % period == 0
                          ? kIgnore
                          : static_cast<int32_t>(r * 7919 % std::max(classes, int64_t{1})));
  return targets;
}

// What both passes leave.
template <class T>
struct Results {
  Twin<float> loss, lse;
  Twin<int64_t> counted;
  Twin<T> dlogits;
  Results(int64_t rows, int64_t classes, int64_t shift = 0)
      : loss(random<float>(1, 11)),
        lse(random<float>(rows, 12)),
        counted({-5}),
        dlogits(random<T>(rows * classes, 13), shift) {}

  void compute(int64_t rows, int64_t classes, const Twin<T>& logits,
               const Twin<int32_t>& targets) const {
    const Twin<float> scale(std::vector<float>{3.5f});
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.cross_entropy(q, dtype_of<T>(), rows, classes, logits.on(d), targets.on(d), kIgnore,
                      loss.on(d), lse.on(d), counted.on(d));
      k.cross_entropy_backward(q, dtype_of<T>(), rows, classes, logits.on(d), targets.on(d),
                               kIgnore, lse.on(d), counted.on(d), scale.on(d), dlogits.on(d));
    });
  }
  void expect_equal(int64_t rows) const {
    loss.expect_equal({1e-6, 1.0});
    lse.expect_equal({1e-6, 1.0});
    counted.expect_equal();
    // Where a weight is nearly 1, the gradient is what its rounding leaves.
    dlogits.expect_equal({2e-6 + one_rounding<T>(), 8.0 / static_cast<double>(rows + 1)});
  }
};

template <class T>
void check_cross_entropy(int64_t rows, int64_t classes, int64_t period, int64_t shift = 0) {
  SCOPED_TRACE(str(rows, "x", classes, " period ", period, " ", dtype_of<T>()));
  const auto logits = random_twin<T>(rows * classes, 1, -6, 6, shift);
  const Twin<int32_t> targets(targets_of(rows, classes, period));
  const Results<T> results(rows, classes, shift);
  results.compute(rows, classes, logits, targets);
  results.expect_equal(rows);
}

TEST_F(CudaCrossEntropy, LossAndGradients) {
  const std::pair<int64_t, int64_t> sizes[] = {
      {0, 5}, {1, 1}, {3, 5}, {70, 100}, {1030, 3}, {9, 1024}, {3, 1025}, {2, 8193}, {2, 50257}};
  for (auto [rows, classes] : sizes)
    for (int64_t period : {0, 3, 1}) {
      check_cross_entropy<float>(rows, classes, period);
      check_cross_entropy<BFloat16>(rows, classes, period);
    }
}

TEST_F(CudaCrossEntropy, UnalignedMemory) {
  check_cross_entropy<float>(3, 64, 2, 1);
  check_cross_entropy<BFloat16>(3, 3000, 2, 3);
}

// Each row's loss is one of its logits, exactly. So only the order of the sum makes the bits.
TEST_F(CudaCrossEntropy, RowsAreAddedInTheFixedTree) {
  for (int64_t rows : {1, 2, 7, 31, 1000, 1024, 1025, 2048, 5003}) {
    std::vector<float> logits;
    for (float v : random<float>(rows, 1, -300.0f, -110.0f)) {
      logits.push_back(0.0f);
      logits.push_back(v);
    }
    std::vector<int32_t> ones(static_cast<size_t>(rows), 1);
    if (rows > 5) ones[3] = kIgnore;
    const Twin<float> x(logits);
    const Twin<int32_t> targets(ones);
    const Results<float> results(rows, 2);
    results.compute(rows, 2, x, targets);
    results.loss.expect_equal();
    results.counted.expect_equal();
  }
}

TEST_F(CudaCrossEntropy, MaskedLogits) {
  auto logits = random<float>(4 * 1500, 1, -3, 3);
  std::fill(logits.begin(), logits.begin() + 1400, -INFINITY);
  std::fill(logits.begin() + 3 * 1500 + 1000, logits.end(), -INFINITY);
  logits[2 * 1500 + 5] = NAN;
  const Twin<float> x(logits);
  const Twin<int32_t> targets(std::vector<int32_t>{1450, 2, 3, 4});
  const Results<float> results(4, 1500);
  results.compute(4, 1500, x, targets);
  results.expect_equal(4);
}

// The device does not tell the host of a target out of range. It reads nothing there, and what
// depends on the target is NaN.
TEST_F(CudaCrossEntropy, TargetsOutOfRange) {
  for (int32_t bad : {-1, 5, 6, INT32_MAX, INT32_MIN}) {
    const Tensor logits = Tensor::from(random<float>(15, 1), {3, 5}, kCuda);
    const Tensor targets = Tensor::from(std::vector<int32_t>{4, bad, kIgnore}, {3}, kCuda);
    const Tensor loss = Tensor::zeros({1}, DType::f32, kCuda),
                 lse = Tensor::zeros({3}, DType::f32, kCuda),
                 scale = Tensor::full({1}, 1.0, DType::f32, kCuda),
                 counted = Tensor::zeros({1}, DType::i64, kCuda),
                 dlogits = Tensor::zeros({15}, DType::f32, kCuda);
    const Kernels& k = kernels(kCuda);
    const Queue& q = current_queue(kCuda);
    k.cross_entropy(q, DType::f32, 3, 5, logits.raw(), targets.data<int32_t>(), kIgnore,
                    loss.data<float>(), lse.data<float>(), counted.data<int64_t>());
    k.cross_entropy_backward(q, DType::f32, 3, 5, logits.raw(), targets.data<int32_t>(), kIgnore,
                             lse.data<float>(), counted.data<int64_t>(), scale.data<float>(),
                             dlogits.raw());
    EXPECT_TRUE(std::isnan(loss.to_vector<float>()[0]));
    EXPECT_EQ(counted.to_vector<int64_t>()[0], 2);
    for (float v : lse.to_vector<float>()) EXPECT_TRUE(std::isfinite(v));
    const auto d = dlogits.to_vector<float>();
    for (size_t i = 0; i < d.size(); ++i) EXPECT_EQ(std::isnan(d[i]), i / 5 == 1) << i;
  }
}

// The gradient may lie where the logits lie.
TEST_F(CudaCrossEntropy, InPlace) {
  const auto x = random_twin<float>(4 * 300, 1);
  const Twin<int32_t> targets(targets_of(4, 300, 3));
  const Twin<float> loss(random<float>(1, 2)), lse(random<float>(4, 3)),
      scale(std::vector<float>{1.0f});
  const Twin<int64_t> counted({0});
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.cross_entropy(q, DType::f32, 4, 300, x.on(d), targets.on(d), kIgnore, loss.on(d), lse.on(d),
                    counted.on(d));
    k.cross_entropy_backward(q, DType::f32, 4, 300, x.on(d), targets.on(d), kIgnore, lse.on(d),
                             counted.on(d), scale.on(d), x.on(d));
  });
  x.expect_equal({4e-6, 1e-6});
}

}  // namespace
}  // namespace lockstep::testing
