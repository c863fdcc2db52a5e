#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaGemm : public CudaTest {};

struct Case {
  int64_t m, n, k;
  bool a_transposed = false, b_transposed = false, accumulate = false, bias = false;
  int64_t padding = 0;  // extra elements from row to row
  int64_t shift = 0;    // elements by which all matrices start behind an aligned address
};

std::string text(const Case& c) {
  return str(c.m, "x", c.n, "x", c.k, c.a_transposed ? " At" : "", c.b_transposed ? " Bt" : "",
             c.accumulate ? " accumulate" : "", c.bias ? " bias" : "", " padding ", c.padding,
             " shift ", c.shift);
}

template <class In, class Out>
void check_product(const Case& c) {
  SCOPED_TRACE(str(text(c), " ", dtype_of<In>(), " to ", dtype_of<Out>()));
  const int64_t lda = (c.a_transposed ? c.m : c.k) + c.padding;
  const int64_t ldb = (c.b_transposed ? c.k : c.n) + c.padding, ldc = c.n + c.padding;
  const auto a = random_twin<In>((c.a_transposed ? c.k : c.m) * lda, 1, -1, 1, c.shift),
             b = random_twin<In>((c.b_transposed ? c.n : c.k) * ldb, 2, -1, 1, c.shift);
  const auto bias = random_twin<float>(c.n, 4);
  // The margins and what lies between the rows of C must stay as they are.
  const auto out = random_twin<Out>(c.m * ldc, 3, -1, 1, c.shift);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    GemmArgs args{};
    args.m = c.m, args.n = c.n, args.k = c.k;
    args.a = {a.on(d), dtype_of<In>(), lda, c.a_transposed};
    args.b = {b.on(d), dtype_of<In>(), ldb, c.b_transposed};
    args.c = out.on(d), args.c_dtype = dtype_of<Out>(), args.ldc = ldc;
    args.accumulate = c.accumulate;
    args.bias = c.bias ? bias.on(d) : nullptr;
    k.gemm(q, args);
  });
  // Both sum K products in f32, each in an order of its own: the error of a sum grows with √K.
  const double sums = 4e-7 * std::sqrt(static_cast<double>(c.k + 1));
  out.expect_equal({sums + one_rounding<Out>(), std::sqrt(static_cast<double>(c.k + 1))});
}

void check_all_types(const Case& c) {
  check_product<float, float>(c);
  check_product<BFloat16, float>(c);
  if (!c.accumulate) check_product<BFloat16, BFloat16>(c);
}

const std::array<int64_t, 3> kSizes[] = {{1, 1, 1},     {8, 8, 8},      {7, 5, 3},
                                         {64, 96, 128}, {33, 130, 257}, {256, 256, 1024},
                                         {1, 512, 64},  {96, 1, 40},    {16, 16, 5000}};

TEST_F(CudaGemm, AllTransposes) {
  for (auto [m, n, k] : kSizes)
    for (const bool a : {false, true})
      for (const bool b : {false, true})
        check_all_types({.m = m, .n = n, .k = k, .a_transposed = a, .b_transposed = b});
}

TEST_F(CudaGemm, AddsToTheResult) {
  for (auto [m, n, k] : kSizes)
    for (const bool a : {false, true})
      check_all_types({.m = m, .n = n, .k = k, .a_transposed = a, .accumulate = true});
}

TEST_F(CudaGemm, AddsABiasToEachRow) {
  for (auto [m, n, k] : kSizes)
    for (const bool b : {false, true})
      check_all_types({.m = m, .n = n, .k = k, .b_transposed = b, .bias = true});
}

TEST_F(CudaGemm, RowsThatAreApart) {
  for (const int64_t padding : {1, 3, 8})
    for (const bool transposed : {false, true})
      check_all_types({.m = 33,
                       .n = 70,
                       .k = 64,
                       .a_transposed = transposed,
                       .b_transposed = transposed,
                       .padding = padding});
}

TEST_F(CudaGemm, UnalignedMemory) {
  for (const int64_t shift : {1, 2, 4})
    check_all_types({.m = 32, .n = 48, .k = 64, .bias = true, .shift = shift});
}

TEST_F(CudaGemm, NoRowsColumnsOrTerms) {
  for (const bool accumulate : {false, true}) {
    check_all_types({.m = 0, .n = 5, .k = 7, .accumulate = accumulate});
    check_all_types({.m = 5, .n = 0, .k = 7, .accumulate = accumulate});
    check_all_types({.m = 5, .n = 7, .k = 0, .accumulate = accumulate});
  }
  check_all_types({.m = 5, .n = 7, .k = 0, .bias = true});
}

// One that was rounded before gives the bits of one that the product rounds.
TEST_F(CudaGemm, TakesARoundedBias) {
  const auto b = random_twin<BFloat16>(8 * 16, 2);
  const Tensor exact = Tensor::from(random<float>(16, 3), {16}, kCuda);
  const Tensor rounded = exact.to(DType::bf16);
  for (const int64_t k : {8, 0}) {
    const auto a = random_twin<BFloat16>(4 * k, 1);
    const auto product = [&](const float* f32, const void* bf16) {
      const Tensor c = Tensor::empty({4, 16}, DType::bf16, kCuda);
      GemmArgs args{};
      args.m = 4, args.n = 16, args.k = k;
      args.a = {a.on(kCuda), DType::bf16, 8, false};
      args.b = {b.on(kCuda), DType::bf16, 16, false};
      args.c = c.raw(), args.c_dtype = DType::bf16, args.ldc = 16;
      args.bias = f32, args.rounded_bias = bf16;
      kernels(kCuda).gemm(current_queue(kCuda), args);
      return c.to(DType::f32).to_vector<float>();
    };
    EXPECT_EQ(product(exact.data<float>(), nullptr), product(nullptr, rounded.raw()));
    EXPECT_NE(product(exact.data<float>(), nullptr), product(nullptr, nullptr));
  }
}

template <class T>
void check_linear_gradients(int64_t rows, int64_t n, int64_t m, bool accumulate, int64_t shift) {
  SCOPED_TRACE(str(rows, "x", n, "x", m, " ", dtype_of<T>(), accumulate ? " accumulate" : "",
                   " shift ", shift));
  const auto dy = random_twin<T>(rows * n, 1), x = random_twin<T>(rows * m, 2);
  const auto dw = random_twin<float>(n * m, 3), db = random_twin<float>(n, 4, -1, 1, shift);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.linear_gradients(q, {.rows = rows,
                           .n = n,
                           .m = m,
                           .dtype = dtype_of<T>(),
                           .dy = dy.on(d),
                           .x = x.on(d),
                           .dw = dw.on(d),
                           .accumulate_dw = accumulate,
                           .db = db.on(d),
                           .accumulate_db = accumulate});
  });
  const double terms = std::sqrt(static_cast<double>(rows + 1));
  dw.expect_equal({4e-7 * terms, terms});
  db.expect_equal({4e-7 * terms, terms});
}

// Also with what the library refuses (odd m, for the simulated one) and aligns.
TEST_F(CudaGemm, GradientsOfALinearLayer) {
  for (const auto& [rows, n, m] : {std::array<int64_t, 3>{16, 8, 4},
                                   {33, 7, 5},
                                   {1, 1, 2},
                                   {200, 96, 64},
                                   {0, 3, 4},
                                   {5, 0, 4},
                                   {5, 4, 0}})
    for (const bool accumulate : {false, true})
      for (const int64_t shift : {0, 1}) {
        check_linear_gradients<float>(rows, n, m, accumulate, shift);
        check_linear_gradients<BFloat16>(rows, n, m, accumulate, shift);
      }
}

// A bias gradient that is added has the bits of one that is computed aside.
TEST_F(CudaGemm, SumsOfALinearLayerDoNotDependOnWhatTheyAreAddedTo) {
  const int64_t rows = 77, n = 24, m = 16;
  const auto dy = random_twin<float>(rows * n, 1), x = random_twin<float>(rows * m, 2);
  const auto dw = random_twin<float>(n * m, 3);
  const auto sums = [&](bool accumulate) {
    const Tensor db = Tensor::zeros({n}, DType::f32, kCuda);
    kernels(kCuda).linear_gradients(current_queue(kCuda), {.rows = rows,
                                                           .n = n,
                                                           .m = m,
                                                           .dtype = DType::f32,
                                                           .dy = dy.on(kCuda),
                                                           .x = x.on(kCuda),
                                                           .dw = dw.on(kCuda),
                                                           .accumulate_dw = false,
                                                           .db = db.data<float>(),
                                                           .accumulate_db = accumulate});
    return db.to_vector<float>();
  };
  EXPECT_EQ(sums(false), sums(true));
}

TEST_F(CudaGemm, TheSameBitsEveryTime) {
  const int64_t m = 96, n = 80, k = 4096;
  const auto a = random_twin<BFloat16>(m * k, 1), b = random_twin<BFloat16>(k * n, 2);
  std::vector<std::vector<float>> results;
  for (int run = 0; run < 3; ++run) {
    const Tensor c = Tensor::empty({m, n}, DType::f32, kCuda);
    GemmArgs args{};
    args.m = m, args.n = n, args.k = k;
    args.a = {a.on(kCuda), DType::bf16, k, false};
    args.b = {b.on(kCuda), DType::bf16, n, false};
    args.c = c.data<float>(), args.c_dtype = DType::f32, args.ldc = n;
    kernels(kCuda).gemm(current_queue(kCuda), args);
    results.push_back(c.to_vector<float>());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace lockstep::testing
