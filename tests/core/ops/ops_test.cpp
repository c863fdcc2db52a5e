#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <gmock/gmock.h>

#include "core/base/parallel.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;
using ::testing::ThrowsMessage;

Tensor normal(const Shape& shape, uint32_t site) {
  Tensor t = Tensor::empty(shape);
  kernels(kCpu).normal(current_queue(kCpu), t.numel(), 0.0f, 1.0f, {.seed = 31, .site = site}, 0,
                       t.data<float>());
  return t;
}
Variable constant(const Shape& shape, uint32_t site = 1) { return Variable(normal(shape, site)); }

template <typename F>
void expect_refused(F f, const std::string& message) {
  EXPECT_THAT(f, ThrowsMessage<UsageError>(HasSubstr(message)));
}

TEST(Operations, WrongInputsAreRefusedByName) {
  const Variable x = constant({2, 3});
  const Variable half(x.data().to(DType::bf16)), whole(Tensor::zeros({2, 3}, DType::i32));
  expect_refused([&] { ops::add(x, constant({4})); },
                 "[add] shapes [2, 3] and [4] do not broadcast");
  expect_refused([&] { ops::mul(x, half); },
                 "[mul] expected values of one dtype, got f32[2, 3] and bf16[2, 3]");
  expect_refused([&] { ops::gelu(whole); }, "expected f32 or bf16, got i32[2, 3]");
  expect_refused([&] { ops::sum(x, 2); }, "[sum] axis 2 is out of range");
  expect_refused([&] { ops::matmul(x, x); },
                 "[matmul] expected [..., M, K] and [..., K, N], got f32[2, 3] and f32[2, 3]");
  expect_refused(
      [&] {
        ops::linear(x, constant({4, 2}), {});
      },
      "[linear] expected x [..., in] and a weight [out, in]");
  expect_refused(
      [&] {
        ops::linear(x, constant({4, 3}), constant({3}));
      },
      "[linear] expected a bias of f32[4], got f32[3]");
  expect_refused([&] { ops::linear(half, constant({4, 3}), {}); }, "use a PrecisionScope");
  expect_refused([&] { ops::layer_norm(x, constant({2}), {}); },
                 "[layer_norm] expected a weight of f32[3], got f32[2]");
  expect_refused(
      [&] {
        ops::concat({x, constant({3, 3})}, 1);
      },
      "[concat] expected parts that differ along axis 1 alone");
  expect_refused(
      [&] {
        ops::causal_attention(constant({1, 2, 8}), 2);
      },
      "[causal_attention] expected qkv [B, T, (heads + 2·kv_heads)·D]");
  expect_refused([&] { ops::dropout(x, 1.0f, {}); },
                 "[dropout] expected a probability within [0, 1), got 1");
  expect_refused([&] { ops::unary(UnaryOp::exp, Variable()); }, "undefined variable");
}

TEST(Operations, NothingAlongAnAxisIsNoAccident) {
  const Parameter none("none", Tensor::zeros({2, 0}));
  ops::sum(ops::softmax(none)).backward();
  EXPECT_EQ(none.grad().shape(), (Shape{2, 0}));
  // An empty batch: the sums over it are 0.
  const Parameter w("w", normal({3, 4}, 1)), b("b", normal({3}, 2)), n("n", normal({4}, 3));
  for (const Parameter& p : {w, b, n}) p.set_grad_buffer(Tensor::full(p.shape(), 7));
  ops::sum(ops::linear(ops::layer_norm(Variable(Tensor::zeros({0, 4})), n, {}), w, b)).backward();
  for (const Parameter& p : {w, b, n})
    EXPECT_THAT(p.grad().to_vector<float>(), Each(0.0f)) << p.name();
  w.zero_grad();
  ops::sum(ops::matmul(Variable(Tensor::zeros({2, 0, 3})), w)).backward();
  EXPECT_THAT(w.grad().to_vector<float>(), Each(0.0f));
  EXPECT_THAT(ops::matmul(Variable(Tensor::zeros({2, 0})), Variable(Tensor::zeros({0, 3})))
                  .data()
                  .to_vector<float>(),
              Each(0.0f));
  EXPECT_THAT(ops::sum(Variable(Tensor::zeros({2, 0})), 1).data().to_vector<float>(), Each(0.0f));
}

TEST(Operations, IntegersWrapAndTruthValuesAreNoNumbers) {
  const int64_t low = std::numeric_limits<int64_t>::min();
  const Variable a(Tensor::from(std::vector<int64_t>{low, 7, low}, {3})),
      b(Tensor::from(std::vector<int64_t>{-1, -1, 1}, {3}));
  EXPECT_THAT(ops::div(a, b).data().to_vector<int64_t>(), ElementsAre(low, -7, low));
  EXPECT_THAT(ops::sub(a, b).data().to_vector<int64_t>(),
              ElementsAre(low + 1, 8, std::numeric_limits<int64_t>::max()));
  EXPECT_THAT(ops::mul(a, b).data().to_vector<int64_t>(), ElementsAre(low, -7, low));
  expect_refused([&] { ops::div(a, Variable(Tensor::zeros({3}, DType::i64))); },
                 "integer division by zero");
  const Variable truth(Tensor::full({2}, 1, DType::boolean));
  expect_refused([&] { ops::add(truth, truth); }, "no arithmetic on bool");
}

TEST(Operations, IdsAndTargetsOutOfRangeAreRefused) {
  const Variable table = constant({4, 2});
  expect_refused(
      [&] {
        ops::embedding(Tensor::from(std::vector<int64_t>{0, 4}, {2}), table);
      },
      "[embedding] expected ids within [0, 4), got 4");
  expect_refused(
      [&] { ops::embedding(Tensor::from(std::vector<int64_t>{int64_t{1} << 32}, {1}), table); },
      "got 4294967296");
  expect_refused([&] { ops::embedding(Tensor::zeros({2}), table); },
                 "[embedding] expected ids of i32, i64 or u8, got f32[2]");
  const Variable logits = constant({2, 3});
  expect_refused(
      [&] {
        ops::cross_entropy(logits, Tensor::from(std::vector<int32_t>{0, -1}, {2}));
      },
      "[cross_entropy] expected ids within [0, 3), got -1");
  expect_refused([&] { ops::cross_entropy(logits, Tensor::zeros({3}, DType::i32)); },
                 "[cross_entropy] expected targets of shape [2]");
  EXPECT_TRUE(std::isfinite(
      ops::cross_entropy(logits, Tensor::from(std::vector<int32_t>{0, -1}, {2}), -1).item()));
}

TEST(Operations, IdsMayBeOfAnyIntegerType) {
  const Variable table = constant({4, 2});
  const Tensor ids = Tensor::from(std::vector<int64_t>{3, 1}, {2});
  const auto expected = ops::embedding(ids, table).data().to_vector<float>();
  EXPECT_EQ(ops::embedding(ids.to(DType::i32), table).data().to_vector<float>(), expected);
  EXPECT_EQ(ops::embedding(ids.to(DType::u8), table).data().to_vector<float>(), expected);
}

TEST(Operations, ViewsOfAnyLayoutGiveTheSameValues) {
  const Tensor t = normal({5, 4}, 1);
  const Variable dense(t.transpose(0, 1).contiguous()), view(t.transpose(0, 1)),
      w = constant({3, 5}, 2), square = constant({5, 5}, 3);
  const auto same = [](const Variable& a, const Variable& b) {
    EXPECT_EQ(a.data().to_vector<float>(), b.data().to_vector<float>());
  };
  same(ops::gelu(view), ops::gelu(dense));
  same(ops::linear(view, w, {}), ops::linear(dense, w, {}));
  same(ops::softmax(view), ops::softmax(dense));
  same(ops::sum(view, 0), ops::sum(dense, 0));
  same(ops::layer_norm(view, {}, {}), ops::layer_norm(dense, {}, {}));
  // A narrow of columns is neither dense nor transposed, but its rows are.
  same(ops::matmul(ops::narrow(square, 1, 1, 3), ops::narrow(square, 0, 2, 3)),
       ops::matmul(Variable(square.data().narrow(1, 1, 3).contiguous()),
                   ops::narrow(square, 0, 2, 3)));
}

// What linear() gets from `inner`, kept or computed again, as bits of all gradients.
std::vector<float> gradients_behind_a_linear(
    const std::function<Variable(const Variable&, const Variable&)>& inner, bool kept) {
  const Parameter x("x", normal({6, 8}, 1)), g("g", normal({8}, 2)), w("w", normal({5, 8}, 3)),
      b("b", normal({5}, 4));
  Variable values = inner(x, g);
  if (kept)
    values = ops::reshape(values, {2, 3, 8});  // a view: nobody knows how to compute it again
  ops::sum(ops::square(ops::linear(values, w, b))).backward();
  std::vector<float> all;
  for (const Parameter& p : {x, g, w, b})
    if (p.has_grad())
      for (const float v : p.grad().to_vector<float>()) all.push_back(v);
  return all;
}

TEST(Operations, AnInputComputedAgainGivesTheBitsOfOneThatWasKept) {
  const std::vector<std::function<Variable(const Variable&, const Variable&)>> inners{
      [](const Variable& x, const Variable& g) { return ops::layer_norm(x, g, g); },
      [](const Variable& x, const Variable& g) { return ops::rms_norm(x, g); },
      [](const Variable& x, const Variable&) { return ops::gelu(x); },
      [](const Variable& x, const Variable& g) { return ops::relu(ops::layer_norm(x, g, {})); },
      [](const Variable& x, const Variable&) {
        return ops::exp(ops::transpose(ops::transpose(x, 0, 1), 0, 1));
      },
  };
  for (const auto& inner : inners)
    EXPECT_EQ(gradients_behind_a_linear(inner, false), gradients_behind_a_linear(inner, true));
}

TEST(Operations, ALinearKeepsNothingOfAnInputThatCanBeComputedAgain) {
  const Parameter x("x", normal({256, 64}, 1)), w("w", normal({16, 64}, 2)),
      g("g", normal({64}, 3));
  const int64_t before = allocator(kCpu).stats().total_used_bytes;
  const Variable a = ops::linear(ops::gelu(x), w, {}),
                 b = ops::linear(ops::layer_norm(x, g, {}, 1e-5f), w, {});
  const int64_t kept =
      allocator(kCpu).stats().total_used_bytes - before - a.data().bytes() - b.data().bytes();
  EXPECT_LT(kept, x.data().bytes() / 4);  // a mean and a scale for each row
}

TEST(Operations, AnInputThatWasChangedIsNotComputedAgain) {
  const Parameter x("x", normal({3, 4}, 1)), w("w", normal({2, 4}, 2));
  const Variable values = ops::relu(x);
  values.data().fill_(7);  // relu's backward does not need them
  ops::sum(ops::linear(values, w, {})).backward();
  EXPECT_THAT(w.grad().to_vector<float>(), Each(21.0f));
}

TEST(Operations, AGradientThatOthersHoldIsNotComputedInPlace) {
  const Parameter x("x", normal({3, 4}, 1)), w("w", normal({3, 4}, 2));
  const Tensor seed = Tensor::full({3, 4}, 2);
  ops::square(x).backward(seed);
  EXPECT_THAT(seed.to_vector<float>(), Each(2.0f));
  const auto alone = x.grad().to_vector<float>();
  x.zero_grad();
  const Variable left = ops::square(ops::mul(x, 1.0f)), right = ops::square(ops::mul(w, 1.0f));
  ops::add(left, right).backward(seed);  // both get the same gradient
  EXPECT_EQ(x.grad().to_vector<float>(), alone);
  x.zero_grad();
  w.zero_grad();
  ops::add(ops::square(ops::mul(w, 1.0f)), ops::square(ops::mul(x, 1.0f))).backward(seed);
  EXPECT_EQ(x.grad().to_vector<float>(), alone);
}

TEST(Operations, AParametersMemoryMayBeGivenBackBetweenForwardAndBackward) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor kept = normal({16, 64}, 2);
    const auto gradient = [&](bool move) {
      const ops::PrecisionScope scope(dtype);
      const auto place = Storage::absent(static_cast<size_t>(kept.bytes()), kCpu, "away");
      std::weak_ptr<Storage> memory;
      const auto bring = [&] {
        const auto brought = kept.clone().storage();
        memory = brought;
        place->attach(brought);
      };
      bring();
      const Parameter w("w", Tensor::wrap(place, kept.shape(), kept.dtype())),
          g("g", Tensor::full({64}, 2)), x("x", normal({4, 64}, 1));
      const Variable loss = ops::sum(ops::linear(ops::layer_norm(x, g, {}, 1e-5f), w, {}));
      if (move) {
        place->detach();
        EXPECT_TRUE(memory.expired());
        bring();
      }
      loss.backward();
      return x.grad().to_vector<float>();
    };
    EXPECT_EQ(gradient(true), gradient(false));
  }
}

// Products over no elements are sums of nothing; no rows are no rows.
TEST(Operations, SizesOfZeroGiveWhatSumsOfNothingGive) {
  const Parameter w("w", Tensor::zeros({3, 0})),
      b("b", Tensor::from(std::vector<float>{1, 2, 3}, {3})), x("x", Tensor::zeros({2, 2, 0}));
  for (const auto& y : {ops::linear(x, w, b), ops::linear(ops::gelu(x), w, b),
                        ops::add(ops::matmul(x, ops::transpose(w, 0, 1)), b)}) {
    ASSERT_EQ(y.shape(), (Shape{2, 2, 3}));
    EXPECT_THAT(y.data().to_vector<float>(), ElementsAre(1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3));
    b.zero_grad();
    ops::sum(y).backward();
    EXPECT_THAT(b.grad().to_vector<float>(), ElementsAre(4, 4, 4));
    EXPECT_EQ(w.grad().shape(), (Shape{3, 0}));
    EXPECT_EQ(x.grad().shape(), (Shape{2, 2, 0}));
  }
  const Parameter full("full", Tensor::full({3, 4}, 1)), none("none", Tensor::zeros({0, 4}));
  for (const auto& y :
       {ops::linear(none, full, b), ops::linear(ops::layer_norm(none, {}, {}, 1e-5f), full, b),
        ops::linear(ops::rms_norm(none, {}, 1e-5f), full, b),
        ops::linear(ops::silu(none), full, b)}) {
    EXPECT_EQ(y.shape(), (Shape{0, 3}));
    full.zero_grad();
    ops::sum(y).backward();
    EXPECT_THAT(full.grad().to_vector<float>(), Each(0.0f));
  }
  for (const int axis : {0, 1}) {
    EXPECT_EQ(ops::softmax(none, axis).shape(), (Shape{0, 4}));
    EXPECT_EQ(ops::log_softmax(Variable(Tensor::zeros({0, 4})), 1).shape(), (Shape{0, 4}));
  }
  EXPECT_EQ(ops::softmax(Variable(Tensor::zeros({4, 0}))).shape(), (Shape{4, 0}));
  EXPECT_THAT(ops::sum(none, 0).data().to_vector<float>(), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(ops::causal_attention(Variable(Tensor::zeros({0, 2, 6})), 1).shape(), (Shape{0, 2, 2}));
  EXPECT_EQ(ops::causal_attention(Variable(Tensor::zeros({2, 0, 6})), 1).shape(), (Shape{2, 0, 2}));
  EXPECT_EQ(ops::embedding(Tensor::zeros({0}, DType::i32), full).shape(), (Shape{0, 4}));
  EXPECT_EQ(ops::concat({none, full}, 0).shape(), (Shape{3, 4}));
  EXPECT_EQ(ops::layer_norm(none, {}, {}).shape(), (Shape{0, 4}));
}

TEST(Operations, WholeNumbersAreNotGivenFractions) {
  const Variable counts(Tensor::from(std::vector<int64_t>{1, 2}, {2}));
  EXPECT_THAT(ops::add(counts, 3.0f).data().to_vector<int64_t>(), ElementsAre(4, 5));
  EXPECT_THAT([&] { ops::add(counts, 0.5f); },
              ThrowsMessage<UsageError>(HasSubstr("a whole number to add to i64[2], got 0.5")));
}

// Ids are i32 to the kernels.
TEST(Operations, MoreRowsThanAnIdCanNameAreRefused) {
  const Variable table(Tensor::zeros({int64_t{1} << 31, 0}));
  EXPECT_THAT([&] { ops::embedding(Tensor::zeros({1}, DType::i64), table); },
              ThrowsMessage<UsageError>(
                  HasSubstr("[embedding] expected fewer than 2^31 rows, got 2147483648")));
}

TEST(Operations, HeadsThatCannotBeAreRefused) {
  const Variable qkv(Tensor::zeros({1, 2, 12}));
  for (const int64_t heads :
       {int64_t{0}, int64_t{-1}, int64_t{3}, std::numeric_limits<int64_t>::max(),
        std::numeric_limits<int64_t>::max() / 3 + 1})
    EXPECT_THAT([&] { ops::causal_attention(qkv, heads); },
                ThrowsMessage<UsageError>(HasSubstr("[causal_attention] expected")))
        << heads;
  for (const int64_t kv_heads : {int64_t{-1}, int64_t{3}, int64_t{4}})
    EXPECT_THAT([&] { ops::causal_attention(qkv, 2, kv_heads); },
                ThrowsMessage<UsageError>(HasSubstr("[causal_attention] expected")))
        << kv_heads;
}

// The same bits as with a copy of the shared heads for each query head, forward and backward.
TEST(Operations, QueryHeadsThatShareKeysNeedNoCopies) {
  for (const int64_t time : {5, 70}) {
    const Tensor values = normal({2, time, (6 + 2 * 2) * 3}, 1);
    const Tensor seed = normal({2, time, 6 * 3}, 2);
    const auto gradient_of = [&](bool copies) {
      const Variable qkv(values, true), x = ops::mul(qkv, 1.0f);
      Variable y;
      if (copies) {
        const auto repeated = [&](int64_t first) {
          const Variable one =
              ops::reshape(ops::narrow(x, 2, first * 3, 2 * 3), {2, time, 2, 1, 3});
          return ops::reshape(ops::concat({one, one, one}, 3), {2, time, 6 * 3});
        };
        y = ops::causal_attention(
            ops::concat({ops::narrow(x, 2, 0, 6 * 3), repeated(6), repeated(8)}, 2), 6);
      } else {
        y = ops::causal_attention(x, 6, 2);
      }
      ops::sum(ops::mul(y, Variable(seed))).backward();
      auto numbers = y.data().to_vector<float>();
      const auto gradient = qkv.grad().to_vector<float>();
      numbers.insert(numbers.end(), gradient.begin(), gradient.end());
      return numbers;
    };
    EXPECT_EQ(gradient_of(false), gradient_of(true)) << time;
  }
}

TEST(Operations, AttentionSeesNoFuture) {
  Tensor qkv = normal({1, 6, 12}, 1);
  const auto before =
      ops::narrow(ops::causal_attention(Variable(qkv), 2), 1, 0, 4).data().to_vector<float>();
  qkv.narrow(1, 4, 2).fill_(100);
  EXPECT_EQ(ops::narrow(ops::causal_attention(Variable(qkv), 2), 1, 0, 4).data().to_vector<float>(),
            before);
}

TEST(Operations, SoftmaxAndCrossEntropyStandLargeLogits) {
  const Variable x(Tensor::from(std::vector<float>{1e4f, 0, -1e4f, 1e4f, 1e4f, -1e4f}, {2, 3}));
  EXPECT_THAT(ops::softmax(x).data().to_vector<float>(), ElementsAre(1, 0, 0, 0.5f, 0.5f, 0));
  EXPECT_THAT(ops::log_softmax(x).data().to_vector<float>(),
              Each(::testing::Truly([](float v) { return std::isfinite(v); })));
  // The spacing of f32 at 1e4.
  EXPECT_NEAR(ops::cross_entropy(x, Tensor::from(std::vector<int32_t>{0, 1}, {2})).item(),
              std::log(2.0) / 2, 0x1p-10);
}

TEST(Operations, DropoutDependsOnItsKeyAlone) {
  const Variable x(Tensor::full({1000}, 1));
  const RandomKey key{.seed = 1, .step = 2, .micro = 3, .site = 4};
  const auto first = ops::dropout(x, 0.25f, key).data().to_vector<float>();
  EXPECT_EQ(ops::dropout(x, 0.25f, key).data().to_vector<float>(), first);
  RandomKey other = key;
  other.micro = 4;
  EXPECT_NE(ops::dropout(x, 0.25f, other).data().to_vector<float>(), first);
  const auto dropped = std::count(first.begin(), first.end(), 0.0f);
  EXPECT_NEAR(static_cast<double>(dropped), 250.0, 70.0);  // five standard deviations
  EXPECT_THAT(first, Each(::testing::AnyOf(0.0f, FloatNear(4.0f / 3.0f, 1e-6f))));
}

TEST(Operations, BitsDoNotDependOnTheNumberOfThreads) {
  const auto gradients = [](int threads) {
    const int before = num_threads();
    set_num_threads(threads);
    const Parameter x("x", normal({2, 70, 48}, 1)), g("g", normal({48}, 2)),
        w("w", normal({144, 48}, 3)), o("o", normal({48, 48}, 4));
    const Variable qkv = ops::linear(ops::layer_norm(x, g, {}, 1e-5f), w, {});
    const Variable y = ops::linear(ops::gelu(ops::causal_attention(qkv, 3)), o, {});
    ops::cross_entropy(ops::add(x, y), Tensor::zeros({2, 70}, DType::i32)).backward();
    std::vector<float> all;
    for (const Parameter& p : {x, g, w, o})
      for (float v : p.grad().to_vector<float>()) all.push_back(v);
    set_num_threads(before);
    return all;
  };
  const auto one = gradients(1);
  EXPECT_EQ(gradients(2), one);
  EXPECT_EQ(gradients(4), one);
}

TEST(PrecisionScope, ProductsComputeInItsDtypeAndGradientsStayF32) {
  const Parameter w("w", normal({3, 8}, 1)), table("t", normal({5, 8}, 2));
  {
    const ops::PrecisionScope scope(DType::bf16);
    const Variable x = ops::embedding(Tensor::zeros({4}, DType::i32), table);
    EXPECT_EQ(x.dtype(), DType::bf16);
    const Variable y = ops::linear(x, w, {});
    EXPECT_EQ(y.dtype(), DType::bf16);
    EXPECT_EQ(ops::layer_norm(x, {}, {}).dtype(), DType::bf16);
    const Variable loss = ops::cross_entropy(y, Tensor::zeros({4}, DType::i32));
    EXPECT_EQ(loss.dtype(), DType::f32);
    loss.backward();
  }
  EXPECT_EQ(ops::PrecisionScope::current(), DType::f32);
  EXPECT_EQ(w.grad().dtype(), DType::f32);
  EXPECT_EQ(table.grad().dtype(), DType::f32);
  EXPECT_EQ(ops::linear(constant({4, 8}), w, {}).dtype(), DType::f32);
}

TEST(PrecisionScope, GradientsAreThoseOfF32ButForRounding) {
  const auto gradient = [](DType dtype) {
    const ops::PrecisionScope scope(dtype);
    const Parameter w("w", normal({8, 16}, 1)), x("x", normal({32, 16}, 2));
    ops::mean(ops::cast(ops::square(ops::linear(ops::gelu(ops::linear(x, w, {})),
                                                Variable(normal({4, 8}, 3)), {})),
                        DType::f32))
        .backward();
    auto all = w.grad().to_vector<float>();
    for (float v : x.grad().to_vector<float>()) all.push_back(v);
    return all;
  };
  const auto exact = gradient(DType::f32), rounded = gradient(DType::bf16);
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    dot += static_cast<double>(exact[i]) * rounded[i];
    a += static_cast<double>(exact[i]) * exact[i];
    b += static_cast<double>(rounded[i]) * rounded[i];
  }
  EXPECT_GT(dot / std::sqrt(a * b), 0.9995);  // a few roundings of 2^-9 each
  EXPECT_NE(exact, rounded);
}

TEST(PrecisionScope, AParameterIsConvertedOnceUntilItsValuesAreReplaced) {
  const Parameter w("w", normal({64, 64}, 1));
  const auto used = [] { return allocator(kCpu).stats().total_used_bytes; };
  const int64_t before = used();
  const Variable x(normal({1, 64}, 2).to(DType::bf16));
  {
    const ops::PrecisionScope scope(DType::bf16);
    ops::linear(x, w, {});
    const int64_t once = used();
    const Tensor copy = ops::in_compute_dtype(w);
    EXPECT_EQ(ops::in_compute_dtype(w).raw(), copy.raw());
    EXPECT_EQ(used(), once);
    w.set_data(normal({64, 64}, 3));
    EXPECT_EQ(ops::in_compute_dtype(w).to_vector<float>(),
              w.data().to(DType::bf16).to_vector<float>());
  }
  EXPECT_LT(used() - before, w.data().bytes() / 2);  // the converted copies are gone
}

}  // namespace
}  // namespace lockstep
