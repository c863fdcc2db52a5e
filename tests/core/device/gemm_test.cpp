#include <tuple>

#include "tests/core/device/reference.h"

namespace lockstep::testing {
namespace {

struct Case {
  int64_t m, n, k;
  bool a_transposed = false, b_transposed = false;
  DType c = DType::f32;
  bool accumulate = false, bias = false;
  int64_t padding = 0;  // extra elements from row to row
};

template <typename In>
class Product {
 public:
  explicit Product(const Case& c) : c_(c) {
    lda_ = (c.a_transposed ? c.m : c.k) + c.padding;
    ldb_ = (c.b_transposed ? c.k : c.n) + c.padding;
    ldc_ = c.n + c.padding;
    a_ = random<In>((c.a_transposed ? c.k : c.m) * lda_, 1);
    b_ = random<In>((c.b_transposed ? c.n : c.k) * ldb_, 2);
    // What lies between rows may be anything, and must not be read: even 0 times it would show.
    spoil_padding(&a_, lda_, c.padding);
    spoil_padding(&b_, ldb_, c.padding);
    before_ = random<float>(c.m * ldc_, 3);
    bias_ = random<float>(c.n, 4);
  }

  template <typename Out>
  std::vector<Out> run() const {
    std::vector<Out> out;
    for (float x : before_) out.push_back(Out(x));
    k().gemm(queue(), {c_.m,
                       c_.n,
                       c_.k,
                       {a_.data(), dtype_of<In>(), lda_, c_.a_transposed},
                       {b_.data(), dtype_of<In>(), ldb_, c_.b_transposed},
                       out.data(),
                       dtype_of<Out>(),
                       ldc_,
                       c_.accumulate,
                       c_.bias ? bias_.data() : nullptr});
    return out;
  }

  // Elements between the rows of C must stay as they were.
  template <typename Out>
  std::vector<double> expected() const {
    std::vector<double> out;
    for (float x : before_) out.push_back(static_cast<float>(Out(x)));
    for (int64_t i = 0; i < c_.m; ++i)
      for (int64_t j = 0; j < c_.n; ++j) {
        double sum = c_.bias ? bias_[static_cast<size_t>(j)] : 0.0;
        for (int64_t p = 0; p < c_.k; ++p)
          sum += at(a_, c_.a_transposed ? p * lda_ + i : i * lda_ + p) *
                 at(b_, c_.b_transposed ? j * ldb_ + p : p * ldb_ + j);
        double& to = out[static_cast<size_t>(i * ldc_ + j)];
        to = c_.accumulate ? to + sum : sum;
      }
    return out;
  }

 private:
  static void spoil_padding(std::vector<In>* x, int64_t ld, int64_t padding) {
    for (int64_t i = 0; i < std::ssize(*x); ++i)
      if (i % ld >= ld - padding) (*x)[static_cast<size_t>(i)] = In(NAN);
  }
  static double at(const std::vector<In>& x, int64_t i) {
    return static_cast<float>(x[static_cast<size_t>(i)]);
  }
  Case c_;
  int64_t lda_, ldb_, ldc_;
  std::vector<In> a_, b_;
  std::vector<float> before_, bias_;
};

template <typename In>
void check_case(const Case& c) {
  SCOPED_TRACE(str(c.m, "x", c.n, "x", c.k, " ta ", c.a_transposed, " tb ", c.b_transposed, " acc ",
                   c.accumulate, " bias ", c.bias));
  const Product<In> product(c);
  const double terms = std::sqrt(static_cast<double>(c.k) + 1) * 2e-6;
  if (c.c == DType::f32)
    expect_near(product.template run<float>(), product.template expected<float>(), terms);
  else
    expect_near(product.template run<BFloat16>(), product.template expected<BFloat16>(),
                terms + rounding<BFloat16>());
}

TEST(Gemm, MatchesPlainLoopsForEverySizeAroundTheTiles) {
  for (int64_t m : {1, 3, 4, 5, 8, 17})
    for (int64_t n : {1, 7, 8, 9, 16, 23, 24, 25, 47, 49, 100})
      for (int64_t depth : {1, 2, 9, 33}) check_case<float>({m, n, depth});
}

TEST(Gemm, MatchesPlainLoopsInEveryOrientation) {
  for (bool ta : {false, true})
    for (bool tb : {false, true})
      for (auto [m, n, depth] :
           {std::tuple{37, 61, 29}, {130, 70, 300}, {64, 48, 256}, {1, 200, 513}, {70, 3, 515}})
        for (bool accumulate : {false, true}) {
          check_case<float>({m, n, depth, ta, tb, DType::f32, accumulate, !accumulate, 5});
          check_case<BFloat16>({m, n, depth, ta, tb, DType::f32, accumulate, !accumulate, 3});
          if (!accumulate) check_case<BFloat16>({m, n, depth, ta, tb, DType::bf16, false, true, 7});
          if (!accumulate) check_case<float>({m, n, depth, ta, tb, DType::bf16, false, false, 1});
        }
}

TEST(Gemm, AddsBiasAndAccumulatesTogether) {
  check_case<float>({33, 50, 300, false, true, DType::f32, true, true});
  check_case<BFloat16>({33, 50, 300, true, false, DType::f32, true, true});
}

TEST(Gemm, EmptySumsGiveTheBias) {
  check_case<float>({5, 30, 0, false, false, DType::f32, false, true});
  check_case<float>({5, 30, 0, false, false, DType::f32, true, true});
  check_case<float>({5, 30, 0, false, false, DType::bf16, false, false});
}

TEST(Gemm, LongSumsAndManyColumns) {
  check_case<float>({4, 20, 70000, true, false});
  check_case<float>({9, 3000, 700, false, true});
}

TEST(Gemm, NumberOfThreadsDoesNotChangeTheBits) {
  const Case shapes[] = {{64, 64, 4096, true, false},
                         {16, 16, 65536, true, false},
                         {1, 512, 4096, false, true},
                         {1, 512, 4096},
                         {130, 100, 3},
                         {257, 129, 511, false, true},
                         {300, 1, 77},
                         {1, 1, 5000, true, true},
                         {128, 128, 768, true, false},
                         {5, 2000, 1200, false, true, DType::f32, true, true}};
  for (const Case& c : shapes) {
    SCOPED_TRACE(str(c.m, "x", c.n, "x", c.k));
    const Product<float> f32(c);
    const Product<BFloat16> bf16(c);
    expect_same_bits_for_any_threads([&] { return f32.run<float>(); });
    expect_same_bits_for_any_threads([&] { return bf16.run<float>(); });
    if (!c.accumulate) expect_same_bits_for_any_threads([&] { return bf16.run<BFloat16>(); });
  }
}

TEST(Gemm, RowsDoNotDependOnHowManyThereAre) {
  const auto a = random<float>(70 * 300, 1), b = random<float>(300 * 50, 2);
  std::vector<float> all(70 * 50), one(50);
  k().gemm(queue(), {70,
                     50,
                     300,
                     {a.data(), DType::f32, 300, false},
                     {b.data(), DType::f32, 50, false},
                     all.data(),
                     DType::f32,
                     50,
                     false,
                     nullptr});
  for (int64_t row : {0, 33, 69}) {
    k().gemm(queue(), {1,
                       50,
                       300,
                       {a.data() + row * 300, DType::f32, 300, false},
                       {b.data(), DType::f32, 50, false},
                       one.data(),
                       DType::f32,
                       50,
                       false,
                       nullptr});
    EXPECT_EQ(std::memcmp(one.data(), all.data() + row * 50, 50 * sizeof(float)), 0) << row;
  }
}

}  // namespace
}  // namespace lockstep::testing
