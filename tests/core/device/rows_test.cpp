// Softmax, norms, cross entropy, embedding.
#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

template <typename T>
double at(const std::vector<T>& x, int64_t i) {
  return static_cast<float>(x[static_cast<size_t>(i)]);
}

const std::pair<int64_t, int64_t> kSizes[] = {{1, 1},    {3, 5},   {2, 16},  {5, 33},
                                              {70, 100}, {130, 7}, {3, 1000}};

template <typename T>
void check_softmax(int64_t rows, int64_t n) {
  const auto x = random<T>(rows * n, 1, -8.0f, 8.0f), dy = random<T>(rows * n, 2);
  std::vector<T> y(x.size()), dx(x.size());
  std::vector<double> want, want_dx;
  k().softmax(queue(), dtype_of<T>(), rows, n, x.data(), y.data());
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0.0, dot = 0.0;
    for (int64_t j = 0; j < n; ++j) sum += std::exp(at(x, r * n + j));
    for (int64_t j = 0; j < n; ++j) want.push_back(std::exp(at(x, r * n + j)) / sum);
    for (int64_t j = 0; j < n; ++j) dot += at(y, r * n + j) * at(dy, r * n + j);
    for (int64_t j = 0; j < n; ++j) want_dx.push_back(at(y, r * n + j) * (at(dy, r * n + j) - dot));
  }
  expect_near(y, want, rounding<T>() + 1e-6);
  k().softmax_backward(queue(), dtype_of<T>(), rows, n, y.data(), dy.data(), dx.data(), false);
  expect_near(dx, want_dx, rounding<T>() + 1e-6);
  k().softmax_backward(queue(), dtype_of<T>(), rows, n, y.data(), dy.data(), dx.data(), true);
  for (double& v : want_dx) v *= 2;
  expect_near(dx, want_dx, 2 * rounding<T>() + 1e-6);
}

TEST(Softmax, ValuesAndGradients) {
  for (auto [rows, n] : kSizes) {
    check_softmax<float>(rows, n);
    check_softmax<BFloat16>(rows, n);
  }
}

// Both norms in double; RMS norm when `bias` is nullptr and not centred.
template <typename T>
struct NormReference {
  std::vector<double> y, dx, dweight, dbias;
  NormReference(bool centred, int64_t rows, int64_t n, double eps, const std::vector<T>& x,
                const std::vector<float>& w, const std::vector<float>& b, const std::vector<T>& dy)
      : dweight(static_cast<size_t>(n)), dbias(static_cast<size_t>(n)) {
    for (int64_t r = 0; r < rows; ++r) {
      double mean = 0.0, square = 0.0, g1 = 0.0, g2 = 0.0;
      if (centred)
        for (int64_t j = 0; j < n; ++j) mean += at(x, r * n + j) / static_cast<double>(n);
      for (int64_t j = 0; j < n; ++j)
        square += std::pow(at(x, r * n + j) - mean, 2) / static_cast<double>(n);
      const double rstd = 1.0 / std::sqrt(square + eps);
      const auto xhat = [&](int64_t j) { return (at(x, r * n + j) - mean) * rstd; };
      const auto g = [&](int64_t j) { return at(dy, r * n + j) * at(w, j); };
      for (int64_t j = 0; j < n; ++j) {
        y.push_back(xhat(j) * at(w, j) + (centred ? at(b, j) : 0.0));
        g1 += centred ? g(j) / static_cast<double>(n) : 0.0;
        g2 += g(j) * xhat(j) / static_cast<double>(n);
        dweight[static_cast<size_t>(j)] += at(dy, r * n + j) * xhat(j);
        dbias[static_cast<size_t>(j)] += at(dy, r * n + j);
      }
      for (int64_t j = 0; j < n; ++j) dx.push_back(rstd * (g(j) - g1 - xhat(j) * g2));
    }
  }
};

template <typename T>
void check_layer_norm(int64_t rows, int64_t n) {
  SCOPED_TRACE(str(rows, "x", n, " ", dtype_of<T>()));
  const float eps = 1e-2f;
  const auto x = random<T>(rows * n, 1, -1.0f, 3.0f), dy = random<T>(rows * n, 2);
  const auto w = random<float>(n, 3, 0.5f, 1.5f), b = random<float>(n, 4);
  const NormReference<T> want(true, rows, n, eps, x, w, b, dy);
  std::vector<T> y(x.size()), dx(x.size());
  std::vector<float> mean(static_cast<size_t>(rows)), rstd(mean), dw(static_cast<size_t>(n), 0.0f),
      db(dw);
  k().layer_norm(queue(), dtype_of<T>(), rows, n, eps, x.data(), w.data(), b.data(), y.data(),
                 mean.data(), rstd.data());
  expect_near(y, want.y, rounding<T>() + 4e-6);
  const auto backward = [&](bool accumulate) {
    k().layer_norm_backward(queue(), dtype_of<T>(), rows, n, x.data(), w.data(), mean.data(),
                            rstd.data(), dy.data(), dx.data(), accumulate, dw.data(), accumulate,
                            db.data(), accumulate);
  };
  backward(false);
  expect_near(dx, want.dx, rounding<T>() + 1e-5, 4.0);
  expect_near(dw, want.dweight, 1e-5, 4.0);
  expect_near(db, want.dbias, 1e-5, 4.0);
  backward(true);
  auto twice = want.dweight;
  for (double& v : twice) v *= 2;
  expect_near(dw, twice, 1e-5, 4.0);
}

TEST(LayerNorm, ValuesAndGradients) {
  for (auto [rows, n] : kSizes) {
    check_layer_norm<float>(rows, n);
    check_layer_norm<BFloat16>(rows, n);
  }
}

TEST(LayerNorm, WithoutWeightAndBias) {
  const auto x = random<float>(40, 1), dy = random<float>(40, 2);
  const NormReference<float> want(true, 4, 10, 1e-5, x, std::vector<float>(10, 1.0f),
                                  std::vector<float>(10, 0.0f), dy);
  std::vector<float> y(40), dx(40), mean(4), rstd(4);
  k().layer_norm(queue(), DType::f32, 4, 10, 1e-5f, x.data(), nullptr, nullptr, y.data(),
                 mean.data(), rstd.data());
  expect_near(y, want.y, 4e-6);
  k().layer_norm_backward(queue(), DType::f32, 4, 10, x.data(), nullptr, mean.data(), rstd.data(),
                          dy.data(), dx.data(), false, nullptr, false, nullptr, false);
  expect_near(dx, want.dx, 1e-5);
}

template <typename T>
void check_rms_norm(int64_t rows, int64_t n) {
  const float eps = 1e-2f;
  const auto x = random<T>(rows * n, 1, -1.0f, 3.0f), dy = random<T>(rows * n, 2);
  const auto w = random<float>(n, 3, 0.5f, 1.5f);
  const NormReference<T> want(false, rows, n, eps, x, w, w, dy);
  std::vector<T> y(x.size()), dx(x.size());
  std::vector<float> rstd(static_cast<size_t>(rows)), dw(static_cast<size_t>(n), 0.0f);
  k().rms_norm(queue(), dtype_of<T>(), rows, n, eps, x.data(), w.data(), y.data(), rstd.data());
  expect_near(y, want.y, rounding<T>() + 4e-6);
  k().rms_norm_backward(queue(), dtype_of<T>(), rows, n, x.data(), w.data(), rstd.data(), dy.data(),
                        dx.data(), false, dw.data(), false);
  expect_near(dx, want.dx, rounding<T>() + 1e-5, 4.0);
  expect_near(dw, want.dweight, 1e-5, 4.0);
}

TEST(RmsNorm, ValuesAndGradients) {
  for (auto [rows, n] : kSizes) {
    check_rms_norm<float>(rows, n);
    check_rms_norm<BFloat16>(rows, n);
  }
}

template <typename T>
void check_cross_entropy(int64_t rows, int64_t classes) {
  const auto logits = random<T>(rows * classes, 1, -10.0f, 10.0f);
  std::vector<int32_t> targets;
  for (int64_t r = 0; r < rows; ++r)
    targets.push_back(r % 3 == 1 ? -1 : static_cast<int32_t>(r * 7 % classes));
  const float scale = 0.5f;
  double total = 0.0;
  int64_t counted = 0, want_counted = 0;
  std::vector<double> want_lse;
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0.0;
    for (int64_t j = 0; j < classes; ++j) sum += std::exp(at(logits, r * classes + j));
    want_lse.push_back(std::log(sum));
    const int32_t target = targets[static_cast<size_t>(r)];
    if (target < 0) continue;
    ++want_counted;
    total += std::log(sum) - at(logits, r * classes + target);
  }
  float loss = 0.0f;
  std::vector<float> lse(static_cast<size_t>(rows));
  std::vector<T> dlogits(logits.size(), T(9.0f));
  k().cross_entropy(queue(), dtype_of<T>(), rows, classes, logits.data(), targets.data(), -1, &loss,
                    lse.data(), &counted);
  EXPECT_EQ(counted, want_counted);
  EXPECT_NEAR(loss, total / static_cast<double>(want_counted), 1e-5);
  expect_near(lse, want_lse, 2e-6);
  std::vector<double> want;
  for (int64_t i = 0; i < rows * classes; ++i) {
    const int64_t r = i / classes;
    const int32_t target = targets[static_cast<size_t>(r)];
    const double p = std::exp(at(logits, i) - want_lse[static_cast<size_t>(r)]) -
                     (i % classes == target ? 1.0 : 0.0);
    want.push_back(target < 0 ? 0.0 : p * scale / static_cast<double>(counted));
  }
  k().cross_entropy_backward(queue(), dtype_of<T>(), rows, classes, logits.data(), targets.data(),
                             -1, lse.data(), &counted, &scale, dlogits.data());
  expect_near(dlogits, want, rounding<T>() + 2e-6, 0.1);
}

TEST(CrossEntropy, LossAndGradientWithIgnoredRows) {
  for (auto [rows, classes] :
       {std::pair<int64_t, int64_t>{1, 2}, {5, 10}, {64, 256}, {100, 65}, {7, 5000}}) {
    check_cross_entropy<float>(rows, classes);
    check_cross_entropy<BFloat16>(rows, classes);
  }
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits = {1000.0f, 0.0f, -1000.0f};
  const int32_t target = 0;
  float loss = -1.0f, lse = 0.0f;
  int64_t counted = 0;
  k().cross_entropy(queue(), DType::f32, 1, 3, logits.data(), &target, -1, &loss, &lse, &counted);
  EXPECT_EQ(loss, 0.0f);
}

template <typename T>
void check_embedding(int64_t rows, int64_t n, int64_t vocab) {
  const auto table = random<float>(vocab * n, 1);
  const auto dy = random<T>(rows * n, 2);
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<int32_t>(r * r % vocab));
  std::vector<T> y(dy.size());
  auto dtable = random<float>(vocab * n, 3);
  std::vector<double> want, want_dtable(dtable.begin(), dtable.end());
  for (int64_t i = 0; i < rows * n; ++i) {
    const int64_t cell = ids[static_cast<size_t>(i / n)] * n + i % n;
    want.push_back(at(table, cell));
    want_dtable[static_cast<size_t>(cell)] += at(dy, i);
  }
  k().embedding(queue(), dtype_of<T>(), rows, n, vocab, table.data(), ids.data(), y.data());
  expect_near(y, want, rounding<T>());
  k().embedding_backward(queue(), dtype_of<T>(), rows, n, vocab, ids.data(), dy.data(),
                         dtable.data(), true);
  expect_near(dtable, want_dtable, 2e-6);
  k().embedding_backward(queue(), dtype_of<T>(), 0, n, vocab, ids.data(), dy.data(), dtable.data(),
                         false);
  expect_near(dtable, std::vector<double>(dtable.size(), 0.0), 0.0);
}

TEST(Embedding, LooksUpAndScattersBack) {
  check_embedding<float>(50, 33, 10);
  check_embedding<float>(3, 300, 7);
  check_embedding<BFloat16>(50, 33, 10);
}

TEST(Rows, NumberOfThreadsDoesNotChangeTheBits) {
  const int64_t rows = 1000, n = 65;
  const auto x = random<float>(rows * n, 1), dy = random<float>(rows * n, 2),
             w = random<float>(n, 3);
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(static_cast<int32_t>(r * 13 % n));
  expect_same_bits_for_any_threads([&] {
    std::vector<float> y(x.size()), dx(x.size()), mean(rows), rstd(rows), lse(rows), dw(n), db(n),
        table(n * n), out(1);
    int64_t counted = 0;
    k().layer_norm(queue(), DType::f32, rows, n, 1e-5f, x.data(), w.data(), w.data(), y.data(),
                   mean.data(), rstd.data());
    k().layer_norm_backward(queue(), DType::f32, rows, n, x.data(), w.data(), mean.data(),
                            rstd.data(), dy.data(), dx.data(), false, dw.data(), false, db.data(),
                            false);
    k().cross_entropy(queue(), DType::f32, rows, n, y.data(), ids.data(), -1, out.data(),
                      lse.data(), &counted);
    k().embedding_backward(queue(), DType::f32, rows, n, n, ids.data(), dx.data(), table.data(),
                           false);
    k().softmax(queue(), DType::f32, rows, n, y.data(), y.data());
    for (const auto& part : {y, dx, lse, dw, db, table})
      out.insert(out.end(), part.begin(), part.end());
    return out;
  });
}

}  // namespace
}  // namespace lockstep::testing
