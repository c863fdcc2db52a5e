#include "tests/core/device/cuda/against_cpu.h"
#include "tests/support/error_of.h"

namespace lockstep::testing {
namespace {

class CudaElementwise : public CudaTest {};

struct UnaryCase {
  UnaryOp op;
  float low, high;  // of inputs
  Tolerance value, slope;
};

// Operations without elementary functions give the CPU's bits.
constexpr Tolerance kExact{}, kClose{1e-6, 1e-3}, kNear{4e-6, 1.0};
const UnaryCase kUnary[] = {
    {UnaryOp::neg, -6, 6, kExact, kExact},      {UnaryOp::exp, -90, 80, kClose, kClose},
    {UnaryOp::log, 1e-3f, 6, kClose, kExact},   {UnaryOp::sqrt, 0, 6, kExact, kExact},
    {UnaryOp::rsqrt, 1e-3f, 6, kExact, kExact}, {UnaryOp::square, -6, 6, kExact, kExact},
    {UnaryOp::abs, -6, 6, kExact, kExact},      {UnaryOp::tanh, -6, 6, kClose, kNear},
    {UnaryOp::sigmoid, -30, 30, kClose, kNear}, {UnaryOp::relu, -6, 6, kExact, kExact},
    {UnaryOp::silu, -30, 30, kClose, kNear},    {UnaryOp::gelu, -6, 6, kClose, kNear},
    {UnaryOp::gelu_tanh, -6, 6, kNear, kNear},
};

// Lengths around the packs and blocks of the kernels.
const int64_t kSizes[] = {0, 1, 3, 4, 7, 8, 9, 31, 255, 1000, 2048, 5003};

template <class T>
Tolerance stored(Tolerance t) {
  return t.relative == 0.0 ? t : Tolerance{t.relative + one_rounding<T>(), t.floor};
}

template <class T>
void check_unary(const UnaryCase& c, int64_t n, int64_t shift) {
  SCOPED_TRACE(str("op ", static_cast<int>(c.op), " n ", n, " shift ", shift, " ", dtype_of<T>()));
  const auto x = random_twin<T>(n, 1, c.low, c.high, shift), dy = random_twin<T>(n, 2),
             y = random_twin<T>(n, 3), dx = random_twin<T>(n, 4, -1, 1, shift),
             sum = random_twin<T>(n, 5);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.unary(q, c.op, dtype_of<T>(), n, x.on(d), y.on(d));
    k.unary_backward(q, c.op, dtype_of<T>(), n, x.on(d), dy.on(d), dx.on(d), false);
    k.unary_backward(q, c.op, dtype_of<T>(), n, x.on(d), dy.on(d), sum.on(d), true);
  });
  y.expect_equal(stored<T>(c.value));
  dx.expect_equal(stored<T>(c.slope));
  // The device fuses the sum. The CPU does so in whole vectors only.
  sum.expect_equal(stored<T>({c.slope.relative + 2e-7, std::max(c.slope.floor, 1.0)}));
}

TEST_F(CudaElementwise, UnaryValuesAndSlopes) {
  for (const UnaryCase& c : kUnary)
    for (int64_t n : kSizes) {
      check_unary<float>(c, n, 0);
      check_unary<BFloat16>(c, n, 0);
    }
}

TEST_F(CudaElementwise, UnaryOfUnalignedMemory) {
  for (const UnaryCase& c : kUnary) {
    check_unary<float>(c, 777, 1);
    check_unary<BFloat16>(c, 777, 3);
  }
}

TEST_F(CudaElementwise, UnaryOfSpecialValues) {
  const float inf = INFINITY;
  for (const UnaryCase& c : kUnary) {
    SCOPED_TRACE(str("op ", static_cast<int>(c.op)));
    const Twin<float> x({0.0f, -0.0f, inf, -inf, NAN, 1e-40f, 100.0f, -100.0f}),
        y(random<float>(8, 1));
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.unary(q, c.op, DType::f32, 8, x.on(d), y.on(d));
    });
    y.expect_equal(c.value);
  }
}

TEST_F(CudaElementwise, ScaledSums) {
  for (int64_t n : kSizes)
    for (float beta : {0.0f, 0.25f}) {
      SCOPED_TRACE(str("n ", n, " beta ", beta));
      const auto x = random_twin<float>(n, 1), y = random_twin<float>(n, 2);
      const auto half_x = random_twin<BFloat16>(n, 1, -1, 1, 1),
                 half_y = random_twin<BFloat16>(n, 2);
      on_both([&](const Kernels& k, const Queue& q, Device d) {
        k.axpby(q, DType::f32, n, 1.7f, x.on(d), beta, y.on(d));
        k.axpby(q, DType::bf16, n, 1.7f, half_x.on(d), beta, half_y.on(d));
      });
      const bool exact = beta == 0.0f || cpu_fuses();
      y.expect_equal(exact ? kExact : kNear);
      half_y.expect_equal(exact ? kExact : stored<BFloat16>(kNear));
    }
}

// More elements than threads: each thread takes several.
TEST_F(CudaElementwise, LongArrays) {
  const int64_t n = 8400003;
  const auto x = random_twin<BFloat16>(n, 1), y = random_twin<BFloat16>(n, 2);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.axpby(q, DType::bf16, n, 1.5f, x.on(d), 0.0f, y.on(d));
    k.binary(q, BinaryOp::maximum, y.view(d, {n - 1}, {1}), x.view(d, {n - 1}, {1}, 1),
             y.view(d, {n - 1}, {1}));
  });
  y.expect_equal();
}

TEST_F(CudaElementwise, WithBetaZeroYIsNotRead) {
  const Twin<float> x(random<float>(33, 1)), y(std::vector<float>(33, NAN));
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.axpby(q, DType::f32, 33, 2.0f, x.on(d), 0.0f, y.on(d));
  });
  y.expect_equal();
}

// ---- binary ----

// Shapes and strides of the result and the operands; `offset` shifts a's first element.
struct Broadcast {
  Shape shape;
  Shape dst, a, b;  // strides
  int64_t offset = 0;
};
const Broadcast kBroadcasts[] = {
    {{1000}, {1}, {1}, {1}},
    {{1003}, {1}, {1}, {1}},
    {{1003}, {1}, {1}, {1}, 1},  // a is not aligned
    {{517}, {1}, {0}, {1}},      // a number and an array
    {{517}, {1}, {1}, {0}},
    {{517}, {1}, {0}, {0}},
    {{}, {}, {}, {}},
    {{0, 4}, {4, 1}, {4, 1}, {0, 1}},
    {{1, 1}, {1, 1}, {1, 1}, {0, 0}},
    {{17, 64}, {64, 1}, {64, 1}, {0, 1}},  // a row for all rows
    {{17, 33}, {33, 1}, {33, 1}, {0, 1}},
    {{17, 64}, {64, 1}, {64, 1}, {1, 0}},   // a number for each row
    {{17, 3}, {4, 1}, {4, 1}, {3, 1}},      // rows shorter than a pack
    {{17, 30}, {32, 1}, {48, 1}, {30, 1}},  // slices
    {{5, 6, 7, 8}, {336, 56, 8, 1}, {0, 56, 8, 1}, {6, 1, 0, 0}},
    {{40, 50}, {50, 1}, {1, 40}, {50, 1}},  // a transposed operand
    {{40, 50}, {1, 40}, {50, 1}, {1, 40}},  // a transposed result
    {{9, 11}, {22, 2}, {11, 1}, {11, 1}},   // every other element
    {{2, 2, 2, 2, 2, 2, 2, 2},
     {128, 64, 32, 16, 8, 4, 2, 1},
     {1, 2, 4, 8, 16, 32, 64, 128},
     {128, 0, 32, 0, 8, 0, 2, 0}},
};

const BinaryOp kArithmetic[] = {BinaryOp::add, BinaryOp::sub,     BinaryOp::mul,
                                BinaryOp::div, BinaryOp::maximum, BinaryOp::minimum};
const BinaryOp kComparisons[] = {BinaryOp::equal, BinaryOp::less, BinaryOp::greater};

int64_t reach(const Shape& shape, const Shape& strides) {
  int64_t last = 0;
  for (int d = 0; d < shape.size(); ++d) last += (shape[d] - 1) * strides[d];
  return std::max<int64_t>(last + 1, 1);
}

// Whole numbers with many equal pairs; no divisor is 0.
template <class T>
std::vector<T> operands(int64_t n, uint32_t site) {
  std::vector<T> x;
  const bool is_signed = !std::is_same_v<T, uint8_t>;
  for (float v : random<float>(n, site, 0.0f, 16.0f)) {
    const float whole = std::floor(v);
    x.push_back(static_cast<T>(is_signed && whole < 8 ? whole - 9 : whole + 1));
  }
  return x;
}

template <class T>
void check_broadcast(const Broadcast& c) {
  const Twin<T> a(operands<T>(reach(c.shape, c.a), 1), c.offset),
      b(operands<T>(reach(c.shape, c.b), 2));
  for (BinaryOp op : kArithmetic) {
    SCOPED_TRACE(str("op ", static_cast<int>(op), " ", dtype_of<T>(), c.shape, c.dst, c.a, c.b));
    const Twin<T> y(operands<T>(reach(c.shape, c.dst), 3));
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.binary(q, op, y.view(d, c.shape, c.dst), a.view(d, c.shape, c.a), b.view(d, c.shape, c.b));
    });
    y.expect_equal();
  }
  for (BinaryOp op : kComparisons) {
    SCOPED_TRACE(str("op ", static_cast<int>(op), " ", dtype_of<T>(), c.shape, c.dst, c.a, c.b));
    const Twin<uint8_t> y(std::vector<uint8_t>(static_cast<size_t>(reach(c.shape, c.dst)), 7));
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.binary(q, op, {y.on(d), DType::boolean, c.shape, c.dst}, a.view(d, c.shape, c.a),
               b.view(d, c.shape, c.b));
    });
    y.expect_equal();
  }
}

TEST_F(CudaElementwise, BinaryOfEveryDtypeAndLayout) {
  for (const Broadcast& c : kBroadcasts) {
    check_broadcast<float>(c);
    check_broadcast<BFloat16>(c);
    check_broadcast<Float16>(c);
    check_broadcast<int64_t>(c);
    check_broadcast<int32_t>(c);
    check_broadcast<uint8_t>(c);
  }
}

TEST_F(CudaElementwise, BinaryAlignsOperandsAtTheLastDimension) {
  const auto a = random_twin<float>(6 * 8, 1), b = random_twin<float>(8, 2),
             c = random_twin<float>(6, 3), y = random_twin<float>(6 * 8, 4);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    const StridedView out = y.view(d, {6, 8}, {8, 1});
    k.binary(q, BinaryOp::add, out, a.view(d, {6, 8}, {8, 1}), b.view(d, {8}, {1}));
    k.binary(q, BinaryOp::mul, out, out, c.view(d, {6, 1}, {1, 1}));  // in place
  });
  y.expect_equal();
}

TEST_F(CudaElementwise, BinaryOfSpecialValues) {
  const float inf = INFINITY;
  const Twin<float> a({NAN, 1, inf, -inf, 0.0f, -0.0f, 1e30f}),
      b({1, NAN, inf, inf, -0.0f, 0.0f, 1e-30f});
  for (BinaryOp op : kArithmetic) {
    SCOPED_TRACE(str("op ", static_cast<int>(op)));
    const auto y = random_twin<float>(7, 1);
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.binary(q, op, y.view(d, {7}, {1}), a.view(d, {7}, {1}), b.view(d, {7}, {1}));
    });
    y.expect_equal();
  }
}

template <class T>
void check_integer_limits() {
  const T low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  const Twin<T> a({low, high, low, high, high}),
      b({T(-1), T(1), high, high, low == 0 ? T(3) : low});
  for (BinaryOp op : kArithmetic) {
    SCOPED_TRACE(str("op ", static_cast<int>(op), " ", dtype_of<T>()));
    const Twin<T> y(std::vector<T>(5, T(1)));
    on_both([&](const Kernels& k, const Queue& q, Device d) {
      k.binary(q, op, y.view(d, {5}, {1}), a.view(d, {5}, {1}), b.view(d, {5}, {1}));
    });
    y.expect_equal();
  }
}

TEST_F(CudaElementwise, IntegersWrapAround) {
  check_integer_limits<int64_t>();
  check_integer_limits<int32_t>();
  check_integer_limits<uint8_t>();
}

// The device has nobody to tell.
TEST_F(CudaElementwise, ADivisionOfIntegersByZeroGivesZero) {
  const Twin<int32_t> a({7, -7, 0}), b({0, 0, 0});
  const Tensor y = Tensor::full({3}, 5, DType::i32, kCuda);
  kernels(kCuda).binary(current_queue(kCuda), BinaryOp::div, {y.raw(), DType::i32, {3}, {1}},
                        a.view(kCuda, {3}, {1}), b.view(kCuda, {3}, {1}));
  EXPECT_EQ(y.to_vector<int32_t>(), std::vector<int32_t>(3, 0));
}

TEST_F(CudaElementwise, WrongDtypesAreNamed) {
  const Twin<float> a({1, 2});
  const Twin<int32_t> b({1, 2});
  const Kernels& k = kernels(kCuda);
  const Queue& q = current_queue(kCuda);
  const auto error = [](const auto& action) { return test::error_of(action); };
  const StridedView x = a.view(kCuda, {2}, {1}), i = b.view(kCuda, {2}, {1});
  EXPECT_EQ(error([&] { k.binary(q, BinaryOp::add, x, x, i); }),
            "[binary] expected operands of one dtype, got f32 and i32");
  EXPECT_EQ(error([&] { k.binary(q, BinaryOp::equal, x, x, x); }),
            "[binary] the result's dtype f32 does not fit operands of f32");
  EXPECT_EQ(error([&] { k.unary(q, UnaryOp::exp, DType::i32, 2, x.data, x.data); }),
            "[unary] expected f32, bf16 or f16, got i32");
  EXPECT_EQ(error([&] {
              k.unary_backward(q, UnaryOp::exp, DType::u8, 2, x.data, x.data, x.data, false);
            }),
            "[unary_backward] expected f32, bf16 or f16, got u8");
  EXPECT_EQ(error([&] { k.axpby(q, DType::u8, 2, 1.0f, x.data, 0.0f, x.data); }),
            "[axpby] expected f32, bf16 or f16, got u8");
}

}  // namespace
}  // namespace lockstep::testing
