// Backward refuses values that were changed after forward: gradients made of them would be wrong.
#include <functional>
#include <numeric>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
#include "core/device/kernels.h"
#include "core/nn/init.h"
#include "core/nn/recompute.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/optimizer.h"
#include "tests/support/error_of.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor values(const std::vector<float>& v, const Shape& shape) { return Tensor::from(v, shape); }

// x and w [3, 3]: each operation on them, and whether it needs x in backward.
struct Case {
  std::string op;
  std::function<Variable(const Variable& x, const Variable& w)> run;
};

std::vector<Case> operations_that_read_x_again() {
  using V = const Variable&;
  const Tensor targets = Tensor::from(std::vector<int32_t>{0, 1, 2}, {3});
  return {
      {"mul", [](V x, V w) { return ops::mul(x, w); }},
      {"mul", [](V x, V w) { return ops::mul(w, x); }},
      {"div", [](V x, V w) { return ops::div(w, x); }},
      {"square", [](V x, V) { return ops::square(x); }},
      {"exp", [](V x, V) { return ops::exp(x); }},
      {"gelu", [](V x, V) { return ops::gelu(x); }},
      {"max", [](V x, V) { return ops::max(x, 1); }},
      {"matmul", [](V x, V w) { return ops::matmul(x, w); }},
      {"matmul", [](V x, V w) { return ops::matmul(w, x); }},
      {"linear", [](V x, V w) { return ops::linear(x, w, {}); }},
      {"linear", [](V x, V w) { return ops::linear(w, x, {}); }},
      {"silu", [](V x, V w) { return ops::linear(ops::silu(x), w, {}); }},
      {"linear", [](V x, V w) { return ops::linear(ops::silu(w), x, {}); }},
      {"layer_norm", [](V x, V) { return ops::layer_norm(x, {}, {}); }},
      {"rms_norm", [](V x, V) { return ops::rms_norm(x, {}); }},
      {"layer_norm",
       [](V x, V w) { return ops::linear(ops::layer_norm(x, {}, {}, 1e-5f), w, {}); }},
      {"linear", [](V x, V w) { return ops::linear(ops::rms_norm(w, {}, 1e-5f), x, {}); }},
      {"cross_entropy", [targets](V x, V) { return ops::cross_entropy(x, targets); }},
      {"add",
       [](V x, V w) { return nn::recompute(x, [w](V again) { return ops::add(again, w); }); }},
  };
}

std::vector<Case> operations_that_do_not() {
  using V = const Variable&;
  const Tensor ids = Tensor::from(std::vector<int32_t>{0, 1, 1}, {3});
  return {
      {"add", [](V x, V w) { return ops::add(x, w); }},
      {"sub", [](V x, V w) { return ops::sub(w, x); }},
      {"div", [](V x, V) { return ops::div(x, Variable(Tensor::full({}, 4))); }},
      {"mul", [](V x, V) { return ops::mul(x, 3.0f); }},
      {"mul", [](V x, V) { return ops::mul(x, Variable(Tensor::full({}, 4))); }},
      {"linear",
       [](V x, V) {
         return ops::linear(Variable(Tensor::full({2, 3}, 3)), x, {});
       }},
      {"sum", [](V x, V) { return ops::sum(x, 0); }},
      {"mean", [](V x, V) { return ops::mean(x); }},
      {"softmax", [](V x, V) { return ops::softmax(x); }},
      {"concat",
       [](V x, V w) {
         return ops::concat({x, w}, 0);
       }},
      {"narrow", [](V x, V) { return ops::narrow(x, 0, 1, 2); }},
      {"embedding", [ids](V x, V) { return ops::embedding(ids, x); }},
      {"dropout", [](V x, V) { return ops::dropout(x, 0.5f, {.seed = 3}); }},
      {"cast", [](V x, V) { return ops::cast(x, DType::bf16); }},
  };
}

Parameter make_x() { return {"encoder.x", values({1, 2, 3, 4, 5, 6, 7, 8, 9}, {3, 3})}; }
Parameter make_w() { return {"w", values({2, 1, 0, 1, 2, 1, 0, 1, 2}, {3, 3})}; }

Variable loss_of(const Case& c, const Variable& x, const Variable& w) {
  return ops::sum(ops::mul(c.run(x, w), 2.0f));
}

TEST(ChangedInPlace, IsRefusedByEveryOperationThatReadsItsInputAgain) {
  for (const Case& c : operations_that_read_x_again()) {
    const Parameter x = make_x(), w = make_w();
    const Variable loss = loss_of(c, x, w);
    x.data().fill_(10);
    EXPECT_THAT(error_of([&] { loss.backward(); }),
                AllOf(HasSubstr("[" + c.op + "] backward needs 'encoder.x' f32[3, 3]"),
                      HasSubstr("but fill_ changed it since")))
        << c.op;
    EXPECT_FALSE(x.has_grad()) << c.op;
  }
}

TEST(ChangedInPlace, IsNoMatterToOperationsThatDoNot) {
  for (const Case& c : operations_that_do_not()) {
    const auto gradient = [&](bool change) {
      const Parameter x = make_x(), w = make_w();
      const Variable loss = loss_of(c, x, w);
      if (change) x.data().fill_(10);
      loss.backward();
      return x.grad().to_vector<float>();
    };
    EXPECT_EQ(gradient(true), gradient(false)) << c.op;
  }
}

// Compositions whose operations keep results, views, copies, or how to compute a value again.
std::vector<Case> compositions() {
  using V = const Variable&;
  std::vector<Case> cases = operations_that_read_x_again();
  for (Case& c : operations_that_do_not()) cases.push_back(std::move(c));
  const std::vector<Case> more = {
      {"sqrt", [](V x, V) { return ops::sqrt(x); }},
      {"sigmoid", [](V x, V) { return ops::sigmoid(x); }},
      {"max", [](V x, V) { return ops::max(x, 0); }},
      {"log_softmax", [](V x, V) { return ops::log_softmax(x, 0); }},
      {"transposed", [](V x, V w) { return ops::matmul(ops::transpose(x, 0, 1), w); }},
      {"viewed", [](V x, V) { return ops::exp(ops::narrow(ops::reshape(x, {9}), 0, 2, 5)); }},
      {"norm of sums", [](V x, V w) { return ops::layer_norm(x, ops::sum(w, 0), ops::sum(x, 1)); }},
      {"linear of norm",
       [](V x, V w) { return ops::linear(ops::rms_norm(ops::square(x), ops::sum(w, 0)), w, {}); }},
      {"linear of activations",
       [](V x, V w) { return ops::linear(ops::exp(ops::tanh(x)), w, ops::sum(x, 0)); }},
      {"linear of a view",
       [](V x, V w) { return ops::linear(ops::gelu(ops::transpose(x, 0, 1)), w, {}); }},
      {"nested parts",
       [](V x, V w) {
         const auto inner = [w](V v) { return ops::mul(v, ops::square(w)); };
         return nn::recompute(x, [inner](V v) { return nn::recompute(ops::exp(v), inner); });
       }},
      {"part with linear",
       [](V x, V w) {
         return nn::recompute(x,
                              [w](V v) { return ops::linear(ops::layer_norm(v, {}, {}), w, {}); });
       }},
  };
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

// Whatever is changed, in either precision: the gradients of before, or an error.
TEST(ChangedInPlace, GradientsAreThoseOfBeforeOrNone) {
  enum { x_all, w_part, result };
  for (const Case& c : compositions())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int changed : {x_all, w_part, result})
        for (const bool within : {true, false}) {
          const auto gradients = [&](bool change) {
            const Parameter x = make_x(), w = make_w();
            auto scope = std::make_unique<ops::PrecisionScope>(dtype);
            const Variable y = c.run(x, w);
            std::vector<float> factors(static_cast<size_t>(y.data().numel()));
            std::iota(factors.begin(), factors.end(), 1.0f);
            const Variable loss =
                ops::sum(ops::mul(ops::cast(y, DType::f32), Variable(values(factors, y.shape()))));
            if (!within) scope.reset();
            if (change && changed == x_all) x.data().fill_(7);
            if (change && changed == w_part) w.data().narrow(0, 1, 1).fill_(7);
            if (change && changed == result) y.data().fill_(9);
            loss.backward();
            std::vector<std::vector<float>> all;
            for (const Parameter& p : {x, w})
              all.push_back(p.has_grad() ? p.grad().to_vector<float>() : std::vector<float>());
            return all;
          };
          const auto before = gradients(false);
          std::vector<std::vector<float>> after = before;
          const std::string error = error_of([&] { after = gradients(true); });
          EXPECT_TRUE(after == before || error != "(no error)")
              << c.op << " in " << dtype << ", change " << changed;
        }
}

TEST(ChangedInPlace, HoldsForResultsIdsAndTargets) {
  const Parameter x = make_x(), w = make_w();
  const auto refused = [](const Variable& y, const Tensor& changed, const std::string& what) {
    changed.zero_();
    EXPECT_THAT(error_of([&] { ops::sum(ops::mul(y, 2.0f)).backward(); }), HasSubstr(what));
  };
  for (const auto& [y, op] :
       {std::pair(ops::softmax(x), "softmax"), std::pair(ops::log_softmax(x), "log_softmax"),
        std::pair(ops::div(x, w), "div"), std::pair(ops::max(x, 0), "max")})
    refused(y, y.data(), std::string("[") + op + "] backward needs its result, f32[3");
  const Variable qkv(Tensor::full({1, 2, 6}, 1), true), y = ops::causal_attention(qkv, 1);
  refused(y, y.data(), "[causal_attention] backward needs its result, f32[1, 2, 2]");
  refused(ops::causal_attention(qkv, 1), qkv.data(),
          "[causal_attention] backward needs an input, f32[1, 2, 6]");
  const Tensor ids = Tensor::from(std::vector<int32_t>{0, 2}, {2});
  refused(ops::embedding(ids, x), ids, "[embedding] backward needs its ids, i32[2]");
  const Tensor targets = Tensor::from(std::vector<int32_t>{0, 1, 2}, {3});
  refused(ops::cross_entropy(x, targets), targets,
          "[cross_entropy] backward needs its targets, i32[3]");
  const Parameter scale("scale", Tensor::full({3}, 1)), shift("shift", Tensor::full({3}, 1));
  refused(ops::layer_norm(x, scale, shift), scale.data(),
          "[layer_norm] backward needs 'scale' f32[3]");
}

TEST(ChangedInPlace, IsNoticedWhoeverChanges) {
  const auto change_then_backward = [](const std::function<void(const Parameter&)>& change) {
    const Parameter x = make_x();
    const Variable loss = ops::sum(ops::square(x));
    change(x);
    return error_of([&] { loss.backward(); });
  };
  const auto x_changed_by = [](const std::string& who) {
    return HasSubstr("'encoder.x' f32[3, 3] as it was in the forward pass, but " + who);
  };
  EXPECT_THAT(change_then_backward([](const Parameter& x) {
                x.data().copy_(Tensor::zeros({3, 3}));
              }),
              x_changed_by("copy_"));
  EXPECT_THAT(change_then_backward(
                  [](const Parameter& x) { x.data().transpose(0, 1).narrow(0, 1, 1).zero_(); }),
              x_changed_by("fill_"));
  EXPECT_THAT(change_then_backward([](const Parameter& x) {
                x.data().data<float>()[0] = 5;
                x.data().mark_changed("my loop");
              }),
              x_changed_by("my loop"));
  EXPECT_THAT(change_then_backward([](const Parameter& x) {
                const nn::InitialDraws draws;
                nn::init_uniform(x, 0, 1, 3);
              }),
              x_changed_by("draw_initial"));
  for (const auto& make : {+[](const Parameter& x) { return optim::make_sgd({x}); },
                           +[](const Parameter& x) { return optim::make_adamw({x}); }})
    EXPECT_THAT(change_then_backward([&](const Parameter& x) {
                  ops::sum(x).backward();
                  make(x)->step(0.1f);
                  x.zero_grad();
                }),
                x_changed_by("the optimizer's step()"));
  // Other values in the same memory as before, or in other memory.
  EXPECT_THAT(change_then_backward([](const Parameter& x) { x.data().copy_(x.data().clone()); }),
              x_changed_by("copy_"));
}

TEST(ChangedInPlace, WhatWasRefusedIsNoChange) {
  const Parameter x = make_x();
  const Tensor ids = Tensor::from(std::vector<int32_t>{0, 2}, {2});
  const Variable loss = ops::add(ops::sum(ops::square(x)), ops::sum(ops::embedding(ids, x)));
  for (const auto& refused : std::vector<std::function<void()>>{
           [&] {
             x.data().copy_(Tensor::zeros({2, 2}));
           },
           [&] { x.data().copy_({}); }, [&] { ids.copy_(Tensor::full({2}, std::nan(""))); },
           [&] { ids.copy_(Tensor::full({2}, 0x1p40, DType::i64)); }, [&] { ids.fill_(0.5); }})
    EXPECT_THROW(refused(), UsageError);
  loss.backward();
  EXPECT_THAT(x.grad().to_vector<float>(), ElementsAre(3, 5, 7, 8, 10, 12, 15, 17, 19));
}

TEST(ChangedInPlace, AReplacedWeightIsNoticed) {
  const Parameter x = make_x(), w = make_w();
  const Variable loss = ops::sum(ops::linear(x, w, {}));
  w.set_data(Tensor::zeros({3, 3}));
  EXPECT_THAT(
      error_of([&] { loss.backward(); }),
      HasSubstr(
          "[linear] backward needs 'w' f32[3, 3] as it was in the forward pass, but set_data()"));
}

TEST(ChangedInPlace, AWeightReplacedByWayOfAnotherShapeIsNoticed) {
  const Parameter x = make_x(), w = make_w(), frozen("frozen", Tensor::full({3}, 1), false);
  const Variable plain = ops::sum(ops::linear(x, w, {}));
  const Variable again = nn::recompute(
      x, [&](const Variable& v) { return ops::sum(ops::square(ops::add(v, frozen))); });
  for (const Parameter& p : {w, frozen}) {
    const Shape shape = p.shape();
    p.set_data(Tensor::zeros({1}));
    p.set_data(Tensor::full(shape, 9));
  }
  EXPECT_THAT(
      error_of([&] { plain.backward(); }),
      HasSubstr(
          "[linear] backward needs 'w' f32[3, 3] as it was in the forward pass, but set_data()"));
  EXPECT_THAT(
      error_of([&] { again.backward(); }),
      HasSubstr(
          "[add] backward needs 'frozen' f32[3] as it was in the forward pass, but set_data()"));
}

TEST(ChangedInPlace, AnOptimizersStepBetweenForwardAndBackwardIsNoticedInBothDtypes) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool within : {true, false}) {
      const Parameter x = make_x(), w = make_w();
      Variable loss;
      auto scope = std::make_unique<ops::PrecisionScope>(dtype);
      loss = ops::sum(ops::linear(x, w, {}));
      if (!within) scope.reset();
      w.data().fill_(3);
      EXPECT_THAT(error_of([&] { loss.backward(); }),
                  HasSubstr("[linear] backward needs 'w' f32[3, 3]"))
          << dtype;
    }
}

TEST(ChangedInPlace, AScopeConvertsChangedWeightsAnew) {
  const ops::PrecisionScope scope(DType::bf16);
  const Parameter w("w", Tensor::full({2, 2}, 1));
  const Variable x(Tensor::full({1, 2}, 1));
  EXPECT_THAT(ops::linear(x, w, {}).data().to_vector<float>(), ElementsAre(2, 2));
  w.data().fill_(5);
  EXPECT_THAT(ops::linear(x, w, {}).data().to_vector<float>(), ElementsAre(10, 10));
}

TEST(ChangedInPlace, AGradientThatAGraphReadsIsNoticedWhenMoreIsAdded) {
  const Parameter x = make_x(), w = make_w();
  ops::sum(ops::square(x)).backward();
  const Variable penalty = ops::sum(ops::mul(Variable(x.grad()), w));
  ops::sum(x).backward();
  EXPECT_THAT(error_of([&] { penalty.backward(); }),
              HasSubstr("[mul] backward needs an input, f32[3, 3] as it was in the forward pass, "
                        "but backward()"));
}

TEST(ChangedInPlace, MemoryThatComesBackWithTheSameValuesIsUnchanged) {
  const Tensor master = Tensor::full({2}, 3);
  const auto place = Storage::absent(8, kCpu, "away");
  place->follow(master.storage());
  place->attach(master.clone().storage());
  const Parameter w("w", Tensor::wrap(place, {2}, DType::f32));
  const Variable loss = ops::sum(ops::square(w)), late = ops::sum(ops::square(w));
  place->detach();
  place->attach(master.clone().storage());
  loss.backward();
  EXPECT_THAT(w.grad().to_vector<float>(), ElementsAre(6, 6));
  master.fill_(4);  // what the memory is a copy of
  EXPECT_THAT(error_of([&] { late.backward(); }),
              HasSubstr("'w' f32[2] as it was in the forward pass, but fill_ changed it"));
}

// A recomputed part reads all its values again, those that no operation keeps, too.
TEST(ChangedInPlace, ARecomputedPartNamesWhatChanged) {
  const Parameter x = make_x(), frozen("frozen", Tensor::full({3}, 1), false);
  const Variable outside = ops::mul(make_w(), 2.0f);
  const auto refused = [&](const std::function<void()>& change, const std::string& what) {
    const Variable y = nn::recompute(
        x, [&](const Variable& v) { return ops::square(ops::add(ops::add(v, frozen), outside)); });
    change();
    EXPECT_THAT(error_of([&] { ops::sum(y).backward(); }), HasSubstr(what));
  };
  refused([&] { frozen.data().fill_(7); },
          "[add] backward needs 'frozen' f32[3] as it was in the forward pass, but fill_");
  refused([&] { frozen.set_data(Tensor::zeros({3})); },
          "[add] backward needs 'frozen' f32[3] as it was in the forward pass, but set_data()");
  refused([&] { outside.data().fill_(7); }, "[add] backward needs an input, f32[3, 3]");
  refused([&] { x.data().fill_(7); },
          "'encoder.x' f32[3, 3] as it was in the forward pass, but fill_");
}

TEST(ChangedInPlace, InnerRecomputedPartsAreWatchedByTheOuterOne) {
  const Parameter x = make_x(), frozen("frozen", Tensor::full({3}, 1), false);
  const auto inner = [&](const Variable& v) { return ops::add(v, frozen); };
  const Variable y =
      nn::recompute(x, [&](const Variable& v) { return ops::square(nn::recompute(v, inner)); });
  frozen.data().fill_(7);
  EXPECT_THAT(error_of([&] { ops::sum(y).backward(); }),
              HasSubstr("[add] backward needs 'frozen' f32[3]"));
}

}  // namespace
}  // namespace lockstep
