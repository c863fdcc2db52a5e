#include <cmath>
#include <functional>
#include <limits>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
#include "core/ops/functions.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

Tensor values(std::vector<float> v) {
  const auto n = static_cast<int64_t>(v.size());
  return Tensor::from(v, {n});
}
std::vector<float> grad(const Variable& x) { return x.grad().to_vector<float>(); }

TEST(Autograd, GradientsMeetWhereAGraphForks) {
  const Parameter x("x", values({2, 3}));
  const Variable y = ops::square(x);                 // used by both sides of a diamond
  ops::sum(ops::mul(ops::add(y, x), y)).backward();  // Σ (x² + x)·x² = Σ x⁴ + x³
  EXPECT_THAT(grad(x), ElementsAre(4 * 8 + 3 * 4, 4 * 27 + 3 * 9));
}

TEST(Autograd, AnInputUsedTwiceByOneOperationCountsTwice) {
  const Parameter x("x", values({2, 3}));
  ops::sum(ops::mul(x, x)).backward();
  EXPECT_THAT(grad(x), ElementsAre(4, 6));
}

TEST(Autograd, SharedGradientsAreNotWrittenTo) {
  // add() hands one tensor to both inputs; one side then adds more to its own.
  const Parameter a("a", values({1, 2})), b("b", values({3, 4}));
  const Variable left = ops::mul(a, 2.0f), right = ops::mul(b, 3.0f);
  const Variable both = ops::add(left, right);
  ops::sum(ops::add(both, ops::square(left))).backward();
  EXPECT_THAT(grad(a), ElementsAre(2 + 2 * 2 * 2, 2 + 2 * 2 * 4));
  EXPECT_THAT(grad(b), ElementsAre(3, 3));
}

TEST(Autograd, TheSeedIsNotWrittenTo) {
  const Parameter x("x", values({1, 2}));
  const Tensor seed = values({10, 20});
  const Variable y = ops::mul(x, 1.0f);
  ops::add(ops::add(y, y), ops::square(y)).backward(seed);
  EXPECT_THAT(grad(x), ElementsAre(10 * 4, 20 * 6));
  EXPECT_THAT(seed.to_vector<float>(), ElementsAre(10, 20));
}

TEST(Autograd, BackwardAddsToTheGradientUntilItIsZeroed) {
  const Parameter x("x", values({1, 2}));
  for (int i = 0; i < 2; ++i) ops::sum(ops::square(x)).backward();
  EXPECT_THAT(grad(x), ElementsAre(4, 8));
  const Tensor memory = x.grad();
  x.zero_grad();
  EXPECT_FALSE(x.has_grad());
  EXPECT_FALSE(x.grad().defined());
  ops::sum(ops::square(x)).backward();
  EXPECT_THAT(grad(x), ElementsAre(2, 4));
  EXPECT_EQ(x.grad().raw(), memory.raw());
}

TEST(Autograd, GradientsGoIntoTheMemoryTheyAreGiven) {
  const Tensor bucket = Tensor::full({5}, -1);
  const Parameter w("w", values({1, 2}).view({1, 2})), x("x", values({3}));
  w.set_grad_buffer(bucket.narrow(0, 0, 2).view({1, 2}));
  x.set_grad_buffer(bucket.narrow(0, 3, 1));
  for (int i = 0; i < 2; ++i) {
    const Variable y = ops::linear(Variable(values({5, 7}).view({1, 2})), w, {});
    ops::sum(ops::mul(ops::reshape(y, {1}), x)).backward();
  }
  EXPECT_THAT(bucket.to_vector<float>(), ElementsAre(2 * 15, 2 * 21, -1, 2 * 19, -1));
  EXPECT_THROW(x.set_grad_buffer(Tensor::zeros({2})), UsageError);
}

TEST(Autograd, TheHookRunsOnceWhenTheGradientIsFinalEvenForTiedWeights) {
  const Parameter tied("tied", Tensor::full({2, 2}, 1)), late("late", values({1, 1}));
  std::vector<std::string> order;
  std::vector<float> seen;
  tied.add_grad_hook([&](const Parameter& p) {
    order.push_back(p.name());
    seen = grad(p);
  });
  late.add_grad_hook([&](const Parameter& p) { order.push_back(p.name()); });
  const Variable x(Tensor::full({1, 2}, 1));
  const Variable h = ops::linear(x, tied, {});                  // [2, 2]
  const Variable y = ops::mul(ops::linear(h, tied, {}), late);  // [4, 4]
  ops::sum(y).backward();
  EXPECT_THAT(order, ElementsAre("late", "tied"));
  EXPECT_EQ(seen, grad(tied));
  EXPECT_THAT(seen, ElementsAre(4, 4, 4, 4));
}

TEST(Autograd, HooksRunInOrderAndTheTakerSeesWhatTheyMade) {
  const Parameter p("p", values({1}));
  std::vector<std::string> order;
  const auto says = [&](const std::string& what) {
    return [&order, what](const Parameter& q) {
      order.push_back(str(what, " ", q.grad().item()));
      q.grad().fill_(q.grad().item() + 1);
    };
  };
  const auto run = [&] {
    order.clear();
    p.zero_grad();
    ops::sum(ops::mul(p, 2.0f)).backward();
    return order;
  };
  const HookHandle older = p.add_grad_taker(says("older taker"));
  const HookHandle a = p.add_grad_hook(says("a"));
  const HookHandle taker = p.add_grad_taker(says("taker"));
  p.add_grad_hook(says("b"));
  EXPECT_TRUE(p.is_taken_by(taker));
  EXPECT_FALSE(p.is_taken_by(older));
  EXPECT_THAT(run(), ElementsAre("a 2", "b 3", "taker 4"));
  taker.remove();
  a.remove();
  a.remove();
  EXPECT_TRUE(p.is_taken_by(older));
  EXPECT_THAT(run(), ElementsAre("b 2", "older taker 3"));
  older.remove();
  EXPECT_FALSE(p.is_taken_by(older));
  EXPECT_THAT(run(), ElementsAre("b 2"));
  EXPECT_THROW(p.add_grad_hook({}), UsageError);
  EXPECT_THROW(p.add_grad_taker({}), UsageError);
}

TEST(Autograd, AHookMayAddAndRemoveHooks) {
  const Parameter p("p", values({1}));
  std::vector<std::string> order;
  HookHandle self, later;
  const auto alive = std::make_shared<int>(1);
  self = p.add_grad_hook([&, alive](const Parameter& q) {
    self.remove();
    later.remove();
    EXPECT_EQ(*alive, 1) << "the hook that runs keeps what it holds";
    q.add_grad_hook([&](const Parameter&) { order.push_back("added"); });
    order.push_back("self");
  });
  later = p.add_grad_hook([&](const Parameter&) { order.push_back("later"); });
  ops::sum(ops::mul(p, 2.0f)).backward();
  EXPECT_THAT(order, ElementsAre("self"));
  EXPECT_EQ(alive.use_count(), 1) << "what is removed is gone";
  ops::sum(ops::mul(p, 2.0f)).backward();
  EXPECT_THAT(order, ElementsAre("self", "added"));
  {
    const ScopedHook scoped(p.add_grad_hook([&](const Parameter&) { order.push_back("scoped"); }));
    ops::sum(ops::mul(p, 2.0f)).backward();
  }
  ops::sum(ops::mul(p, 2.0f)).backward();
  EXPECT_THAT(order, ElementsAre("self", "added", "added", "scoped", "added"));
}

TEST(Autograd, AHookThatThrowsKeepsTheLaterOnesFromRunning) {
  const Parameter p("p", values({1}));
  int later = 0;
  const HookHandle faulty =
      p.add_grad_hook([](const Parameter&) { throw EnvironmentError("the hook failed"); });
  p.add_grad_hook([&](const Parameter&) { ++later; });
  p.add_grad_taker([&](const Parameter&) { ++later; });
  EXPECT_THROW(ops::sum(ops::mul(p, 2.0f)).backward(), EnvironmentError);
  EXPECT_EQ(later, 0);
  EXPECT_FALSE(p.has_grad());
  faulty.remove();
  ops::sum(ops::mul(p, 2.0f)).backward();
  EXPECT_EQ(later, 2);
}

TEST(Autograd, HooksRunWhileBackwardIsStillUnderWay) {
  const Parameter first("first", values({1})), last("last", values({1}));
  bool early = false;
  last.add_grad_hook([&](const Parameter&) { early = !first.has_grad(); });
  ops::sum(ops::mul(ops::square(ops::mul(first, 2.0f)), last)).backward();
  EXPECT_TRUE(early);
  EXPECT_TRUE(first.has_grad());
}

TEST(Autograd, NothingIsRecordedUnderNoGrad) {
  const Parameter x("x", values({1}));
  {
    const NoGradGuard guard;
    EXPECT_FALSE(ops::square(x).requires_grad());
    EXPECT_FALSE(grad_enabled());
  }
  EXPECT_TRUE(ops::square(x).requires_grad());
  EXPECT_FALSE(ops::square(x).detach().requires_grad());
}

TEST(Autograd, FrozenLeavesGetNoGradient) {
  const Parameter w("w", values({2})), frozen("frozen", values({3}), false);
  ops::sum(ops::mul(w, frozen)).backward();
  EXPECT_THAT(grad(w), ElementsAre(3));
  EXPECT_FALSE(frozen.has_grad());
  EXPECT_FALSE(frozen.grad_buffer().defined());
}

TEST(Autograd, ASecondBackwardSaysWhatToDo) {
  const Parameter x("x", values({1}));
  const Variable h = ops::exp(x);
  const Variable a = ops::sum(h), b = ops::sum(ops::square(h));
  a.backward();
  EXPECT_THAT([&] { a.backward(); },
              ThrowsMessage<UsageError>(HasSubstr("graph of 'sum' was already used")));
  EXPECT_THAT([&] { b.backward(); },
              ThrowsMessage<UsageError>(HasSubstr("run the forward pass again")));
  EXPECT_THAT(grad(x), ElementsAre(std::exp(1.0f)));  // untouched by the refused ones
}

TEST(Autograd, WrongUseOfBackwardIsRefused) {
  const Parameter x("x", values({1, 2}));
  EXPECT_THAT([&] { ops::square(x).backward(); },
              ThrowsMessage<UsageError>(HasSubstr("needs a seed gradient")));
  EXPECT_THAT([&] { ops::square(x).backward(values({1})); },
              ThrowsMessage<UsageError>(
                  HasSubstr("expected a seed like the variable, f32[2] on cpu, got f32[1]")));
  // A kernel would read f32 memory for bf16, or the other way round.
  EXPECT_THAT([&] { ops::square(x).backward(Tensor::full({2}, 1, DType::bf16)); },
              ThrowsMessage<UsageError>(HasSubstr("got bf16[2]")));
  EXPECT_THAT([&] { Variable(values({1})).backward(); },
              ThrowsMessage<UsageError>(HasSubstr("nothing here requires a gradient")));
  EXPECT_THAT([&] { ops::square(x).grad(); },
              ThrowsMessage<UsageError>(HasSubstr("only leaves keep a gradient")));
  EXPECT_THROW(Variable(Tensor::zeros({1}, DType::i32), true), UsageError);
}

TEST(Autograd, UndefinedAndComputedVariablesHaveNoGradientsToHandle) {
  const Variable none, computed = ops::square(Parameter("x", values({1})));
  for (const Variable& v : {none, computed}) {
    EXPECT_THAT([&] { v.zero_grad(); },
                ThrowsMessage<UsageError>(HasSubstr("[zero_grad] only leaves keep a gradient")));
    EXPECT_THAT([&] { v.grad_buffer(); },
                ThrowsMessage<UsageError>(HasSubstr("[grad_buffer] only leaves keep a gradient")));
    EXPECT_THAT([&] { v.set_grad_buffer(values({1})); },
                ThrowsMessage<UsageError>(HasSubstr("[set_grad_buffer] only leaves")));
    EXPECT_THAT([&] { v.mark_grad_valid(); },
                ThrowsMessage<UsageError>(HasSubstr("[mark_grad_valid] only leaves")));
    EXPECT_FALSE(v.has_grad());
  }
  for (const auto& call : std::vector<std::function<void()>>{
           [&] { none.data(); }, [&] { none.shape(); }, [&] { none.dtype(); },
           [&] { none.device(); }, [&] { none.item(); }, [&] { none.detach(); },
           [&] { none.backward(); }, [&] { Variable::from_node(values({1}), nullptr); }})
    EXPECT_THROW(call(), UsageError);
  EXPECT_TRUE(reachable_leaves(none).empty());
}

TEST(Autograd, AnUndefinedParameterSaysSo) {
  const Parameter none;
  for (const auto& call : std::vector<std::function<void()>>{
           [&] { none.name(); }, [&] { none.set_name("x"); }, [&] { none.add_grad_hook({}); },
           [&] { none.set_data(values({1})); }, [&] { none.set_requires_grad(false); },
           [&] { none.set_initializer({}); }, [&] { none.draw_initial(0, values({1})); }})
    EXPECT_THAT(call, ThrowsMessage<UsageError>(HasSubstr("use of an undefined parameter")));
  EXPECT_FALSE(none.requires_grad());
}

TEST(Autograd, ParametersRefuseValuesThatTheyCannotHave) {
  EXPECT_THAT([] { Parameter("p", Tensor()); },
              ThrowsMessage<UsageError>(HasSubstr("values for 'p', got an undefined tensor")));
  const Parameter p("p", values({1, 2})), counts("counts", Tensor::zeros({2}, DType::i64), false);
  EXPECT_THAT([&] { p.set_data({}); },
              ThrowsMessage<UsageError>(HasSubstr("values for 'p', f32[2] so far, got undefined")));
  EXPECT_THAT([&] { p.set_data(Tensor::zeros({2}, DType::i64)); },
              ThrowsMessage<UsageError>(HasSubstr("got i64[2]")));
  ops::sum(p).backward();
  EXPECT_THAT(grad(p), ElementsAre(1, 1)) << "refused values left everything as it was";
  EXPECT_THAT([&] { counts.set_requires_grad(true); },
              ThrowsMessage<UsageError>(HasSubstr("'counts' is i64[2]")));
  EXPECT_THAT([&] { p.set_grad_buffer(p.data()); },
              ThrowsMessage<UsageError>(HasSubstr("other memory than that of the values of 'p'")));
  const Tensor memory = Tensor::zeros({5});
  const Parameter part("part", memory.narrow(0, 1, 2));
  for (const int64_t start : {0, 1, 2})
    EXPECT_THAT([&] { part.set_grad_buffer(memory.narrow(0, start, 2)); },
                ThrowsMessage<UsageError>(HasSubstr("other memory than")));
  part.set_grad_buffer(memory.narrow(0, 3, 2));
  const int64_t most = std::numeric_limits<int64_t>::max();
  p.set_initializer([](int64_t, const Tensor& drawn) { drawn.fill_(1); });
  for (const int64_t first : {most, int64_t{-1}, int64_t{2}})
    EXPECT_THAT([&] { p.draw_initial(first, values({1})); },
                ThrowsMessage<UsageError>(HasSubstr("within the 2 of 'p'")))
        << first;
}

TEST(Autograd, AnF16LeafMayBeUsedTwice) {
  const Parameter p("p", values({1, 2}).to(DType::f16));
  for (const float total : {3.0f, 6.0f}) {  // the second adds to the first
    ops::sum(ops::add(ops::cast(p, DType::f32), ops::mul(ops::cast(p, DType::f32), 2.0f)))
        .backward();
    EXPECT_THAT(grad(p), ElementsAre(total, total));
  }
  // In f16 all the way, used twice in between, too.
  p.zero_grad();
  const Variable h = ops::mul(p, p);
  const Tensor bias = values({1, 1}).to(DType::f16);
  ops::cast(ops::sub(ops::add(h, h), ops::mul(ops::div(h, p), Variable(bias))), DType::f32)
      .backward(values({1, 1}));
  EXPECT_THAT(grad(p), ElementsAre(4 * 1 - 1, 4 * 2 - 1));  // of 2·p² − p
  // Where it was broadcast, gradients are summed.
  p.zero_grad();
  const Variable rows(Tensor::full({3, 2}, 1, DType::f16));
  ops::cast(ops::add(rows, p), DType::f32).backward(Tensor::full({3, 2}, 2));
  EXPECT_THAT(grad(p), ElementsAre(6, 6));
}

TEST(Autograd, GradientMemoryOfAnotherShapeThanTheValuesIsRefused) {
  const Parameter x("x", values({1, 2}));
  ops::sum(ops::square(x)).backward();
  x.set_data(values({1, 2, 3, 4}));
  const auto expect_refused = [&](const std::function<Variable()>& loss) {
    EXPECT_THAT([&] { loss().backward(); },
                ThrowsMessage<UsageError>(HasSubstr(
                    "the values are f32[4], but the memory for their gradient is f32[2]")));
  };
  expect_refused([&] { return ops::sum(ops::square(x)); });  // written in place
  expect_refused([&] { return ops::sum(x); });               // added
  x.set_grad_buffer(Tensor::zeros({4}));
  ops::sum(ops::square(x)).backward();
  EXPECT_THAT(grad(x), ElementsAre(2, 4, 6, 8));
}

TEST(Autograd, ALongChainNeedsNoDeepStack) {
  const Parameter x("x", values({1}));
  Variable y = ops::mul(x, 1.0f);
  for (int i = 0; i < 60000; ++i) y = ops::mul(y, 1.0f);
  y.backward();
  EXPECT_THAT(grad(x), ElementsAre(1));
  for (int i = 0; i < 60000; ++i) y = ops::add(i == 0 ? Variable(x) : y, 0.0f);
  y = Variable();  // dropped without a backward
}

TEST(Autograd, ReachableLeavesAreThoseThatTookPart) {
  const Parameter used("used", values({1})), other("other", values({1})),
      frozen("frozen", values({1}), false);
  const Variable loss = ops::sum(ops::mul(ops::add(used, frozen), used));
  const auto leaves = reachable_leaves(loss);
  ASSERT_EQ(leaves.size(), 1u);
  EXPECT_EQ(leaves[0].name(), "used");
}

TEST(Autograd, BackwardFreesWhatForwardSaved) {
  const Parameter x("x", Tensor::full({1 << 16}, 1));
  x.set_grad_buffer(Tensor::zeros({1 << 16}));
  const auto used = [] { return allocator(kCpu).stats().total_used_bytes; };
  const int64_t before = used();
  Variable y = ops::exp(x);
  for (int i = 0; i < 4; ++i) y = ops::exp(ops::mul(y, 0.1f));
  const Variable loss = ops::sum(y);
  y = Variable();
  const int64_t forward = used();
  loss.backward();
  EXPECT_GE(forward - before, 4 * x.data().bytes());
  EXPECT_LE(used() - before, 4096);
}

}  // namespace
}  // namespace lockstep
