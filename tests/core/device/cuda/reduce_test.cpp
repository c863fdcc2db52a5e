#include <bit>

#include "tests/core/device/cuda/against_cpu.h"
#include "tests/support/error_of.h"

namespace lockstep::testing {
namespace {

class CudaReduce : public CudaTest {};

struct Sizes {
  int64_t outer, n, inner;
};

// Around the rows of a warp and of a block, and around what one launch and what two reduce.
const Sizes kSizes[] = {{0, 5, 1},     {1, 0, 1},     {2, 0, 3},     {1, 1, 1},    {3, 7, 1},
                        {5, 33, 1},    {70, 100, 1},  {2, 1024, 1},  {3, 1025, 1}, {2, 8192, 1},
                        {2, 8193, 1},  {1, 50000, 1}, {1030, 9, 1},  {4, 0, 2},    {1, 3, 2},
                        {2, 5, 3},     {4, 513, 7},   {1, 5000, 2},  {1, 3, 0},    {2, 600, 33},
                        {3, 700, 257}, {1, 3, 1000},  {2, 1100, 128}};

template <class T>
std::vector<T> values_of(int64_t n) {
  if constexpr (std::is_same_v<T, int64_t>) {
    std::vector<T> x;
    for (float v : random<float>(n, 1, -1e9f, 1e9f)) x.push_back(static_cast<int64_t>(v) * 1000);
    return x;
  } else {
    return random<T>(n, 1);
  }
}

template <class T>
void check_reduce(ReduceKind kind, const Sizes& s, int64_t shift) {
  SCOPED_TRACE(str("kind ", static_cast<int>(kind), " of ", s.outer, "x", s.n, "x", s.inner,
                   " shift ", shift, " ", dtype_of<T>()));
  const Twin<T> x(values_of<T>(s.outer * s.n * s.inner), shift);
  const Twin<T> y(values_of<T>(s.outer * s.inner));
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.reduce(q, kind, dtype_of<T>(), s.outer, s.n, s.inner, x.on(d), y.on(d));
  });
  const bool exact = kind == ReduceKind::max || kind == ReduceKind::min;
  const double size = kind == ReduceKind::sum ? static_cast<double>(s.n) : 1.0;
  y.expect_equal(exact || std::is_integral_v<T>
                     ? Tolerance{}
                     : Tolerance{1e-6 + one_rounding<T>(), std::max(std::sqrt(size), 1e-3)});
}

TEST_F(CudaReduce, AnyAxis) {
  for (ReduceKind kind : {ReduceKind::sum, ReduceKind::mean, ReduceKind::max, ReduceKind::min})
    for (const Sizes& s : kSizes) {
      check_reduce<float>(kind, s, 0);
      check_reduce<BFloat16>(kind, s, 0);
      check_reduce<int64_t>(kind, s, 0);
    }
}

TEST_F(CudaReduce, UnalignedMemory) {
  for (const Sizes& s : {Sizes{3, 64, 1}, Sizes{2, 2048, 1}, Sizes{1, 20000, 1}, Sizes{2, 9, 5}}) {
    check_reduce<float>(ReduceKind::sum, s, 1);
    check_reduce<BFloat16>(ReduceKind::max, s, 3);
    check_reduce<int64_t>(ReduceKind::sum, s, 1);
  }
}

// The bits of a sum do not depend on where its numbers lie.
TEST_F(CudaReduce, AlignmentDoesNotChangeSums) {
  for (const Sizes& s : {Sizes{1, 777, 1}, Sizes{1, 3000, 1}, Sizes{1, 70000, 1}}) {
    const auto values = random<float>(s.n, 1);
    const Twin<float> aligned(values), shifted(values, 1);
    const Tensor sums = Tensor::zeros({2}, DType::f32, kCuda);
    const Queue& q = current_queue(kCuda);
    const Kernels& k = kernels(kCuda);
    float* y = sums.data<float>();
    k.reduce(q, ReduceKind::sum, DType::f32, 1, s.n, 1, aligned.on(kCuda), y);
    k.reduce(q, ReduceKind::sum, DType::f32, 1, s.n, 1, shifted.on(kCuda), y + 1);
    const auto got = sums.to_vector<float>();
    EXPECT_EQ(got[0], got[1]) << "of " << s.n;
  }
}

TEST_F(CudaReduce, NanAndInfinity) {
  const float inf = INFINITY;
  for (int64_t inner : {1, 4}) {
    const Twin<float> x({0, NAN, inf, -inf, 1, 2, NAN, -inf, 3, inf, -inf, -inf});
    for (ReduceKind kind : {ReduceKind::sum, ReduceKind::mean, ReduceKind::max, ReduceKind::min}) {
      const Twin<float> y(random<float>(4, 2));
      on_both([&](const Kernels& k, const Queue& q, Device d) {
        k.reduce(q, kind, DType::f32, 4 / inner, 3, inner, x.on(d), y.on(d));
      });
      y.expect_equal();
    }
  }
}

template <class T>
void check_argmax(int64_t rows, int64_t n, std::vector<T> values, int64_t shift = 0) {
  SCOPED_TRACE(str(rows, "x", n, " shift ", shift, " ", dtype_of<T>()));
  const Twin<T> x(std::move(values), shift);
  const Twin<int64_t> y(std::vector<int64_t>(static_cast<size_t>(rows), -5));
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.argmax(q, dtype_of<T>(), rows, n, x.on(d), y.on(d));
  });
  y.expect_equal();
}

TEST_F(CudaReduce, Argmax) {
  const std::pair<int64_t, int64_t> sizes[] = {{0, 3},    {3, 1},    {5, 33},  {70, 100},
                                               {2, 1025}, {3, 8192}, {2, 9000}};
  for (auto [rows, n] : sizes) {
    check_argmax<float>(rows, n, random<float>(rows * n, 1));
    check_argmax<float>(rows, n, random<float>(rows * n, 1), 1);
    // Of so few values that the largest comes often.
    auto ties = random<float>(rows * n, 1, 0.0f, 4.0f);
    for (float& v : ties) v = std::floor(v);
    check_argmax<float>(rows, n, ties);
    check_argmax<BFloat16>(rows, n, std::vector<BFloat16>(ties.begin(), ties.end()));
  }
  const float inf = INFINITY;
  check_argmax<float>(2, 3, {NAN, 5, 6, 1, NAN, 2});
  check_argmax<float>(3, 3, {-inf, -inf, -inf, -inf, NAN, NAN, 0, inf, inf});
}

template <class T>
void check_square_sums(int64_t n, float scale) {
  SCOPED_TRACE(str(n, " ", dtype_of<T>()));
  const auto x = random_twin<T>(n, 1, -scale, scale);
  std::vector<std::vector<int64_t>> sums;
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    const int64_t blocks = (n + kSquareBlock - 1) / kSquareBlock;
    const Tensor out = Tensor::full({blocks}, -1, DType::i64, d);
    k.square_sums(q, dtype_of<T>(), n, x.on(d), reinterpret_cast<double*>(out.data<int64_t>()));
    sums.push_back(out.to_vector<int64_t>());
  });
  for (size_t i = 0; i < sums[0].size(); ++i) {
    const double want = std::bit_cast<double>(sums[0][i]);
    EXPECT_NEAR(std::bit_cast<double>(sums[1][i]), want, 1e-13 * want) << "block " << i;
  }
}

TEST_F(CudaReduce, SquareSums) {
  for (int64_t n : {0, 1, 5, 1023, 1024, 1025, 20000}) {
    check_square_sums<float>(n, 1.0f);
    check_square_sums<BFloat16>(n, 1.0f);
    check_square_sums<float>(n, 1e30f);  // whose squares overflow f32
  }
}

template <class T>
void check_sum_rows(int64_t rows, int64_t n, bool accumulate, int64_t shift = 0) {
  SCOPED_TRACE(str(rows, "x", n, accumulate ? " added " : " ", dtype_of<T>()));
  const auto dy = random_twin<T>(rows * n, 1, -1, 1, shift);
  const auto db = random_twin<float>(n, 2);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.sum_rows(q, dtype_of<T>(), rows, n, dy.on(d), db.on(d), accumulate);
  });
  db.expect_equal({1e-6, std::sqrt(static_cast<double>(rows) + 1.0)});
}

TEST_F(CudaReduce, SumOfRows) {
  const std::pair<int64_t, int64_t> sizes[] = {{0, 3},    {1, 1},   {3, 0},     {2, 7},
                                               {64, 33},  {65, 33}, {300, 256}, {70, 257},
                                               {3, 1000}, {2000, 5}};
  for (auto [rows, n] : sizes)
    for (bool accumulate : {false, true}) {
      check_sum_rows<float>(rows, n, accumulate);
      check_sum_rows<BFloat16>(rows, n, accumulate);
    }
  check_sum_rows<float>(100, 64, false, 1);
  check_sum_rows<BFloat16>(100, 64, true, 3);
}

TEST_F(CudaReduce, OtherDtypes) {
  const Tensor x = Tensor::zeros({4}, DType::i32, kCuda);
  const Kernels& k = kernels(kCuda);
  const Queue& q = current_queue(kCuda);
  const auto expect = [](const std::string& error, std::string_view kernel) {
    EXPECT_EQ(error, str("[", kernel, "] expected f32, bf16 or f16, got i32"));
  };
  expect(
      test::error_of([&] { k.reduce(q, ReduceKind::sum, DType::i32, 1, 4, 1, x.raw(), x.raw()); }),
      "reduce");
  expect(test::error_of([&] { k.argmax(q, DType::i32, 0, 4, x.raw(), nullptr); }), "argmax");
  expect(test::error_of([&] { k.square_sums(q, DType::i32, 4, x.raw(), nullptr); }), "square_sums");
  expect(test::error_of([&] { k.sum_rows(q, DType::i32, 1, 4, x.raw(), nullptr, false); }),
         "sum_rows");
}

}  // namespace
}  // namespace lockstep::testing
