// A backward() that throws leaves nothing behind that a later one would add to.
#include <functional>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
#include "core/nn/random.h"
#include "core/nn/recompute.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/clip.h"
#include "core/optim/optimizer.h"
#include "tests/support/error_of.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor values(const std::vector<float>& v) {
  return Tensor::from(v, {static_cast<int64_t>(v.size())});
}
std::vector<float> grad(const Variable& x) { return x.grad().to_vector<float>(); }

// The identity, whose backward throws; with `after`, only after it has passed its gradient on.
Variable faulty(const Variable& x, bool after = false) {
  return record("faulty", x.data(), {x}, [after](const Tensor& g, const Node& n) {
    if (after) n.edge(0).add(g);
    throw EnvironmentError("no more data");
  });
}

class FailedBackward : public ::testing::TestWithParam<bool> {};

TEST_P(FailedBackward, LeavesNoGradientInValuesInBetween) {
  const Parameter w("w", values({1, 2}));
  const Variable h = ops::mul(w, 3.0f), g = ops::square(h);
  // `faulty` is the latest node but two, so it runs before those of g and h, which hold gradients
  // by then.
  const Variable f = faulty(ops::mul(h, 1.0f), GetParam());
  const Variable loss = ops::add(ops::sum(g), ops::sum(f));
  EXPECT_EQ(error_of([&] { loss.backward(); }), "no more data");
  EXPECT_FALSE(w.has_grad());
  ops::sum(ops::mul(g, 1.0f)).backward();
  EXPECT_THAT(grad(w), ElementsAre(18, 36));  // of 9·w²
}

TEST_P(FailedBackward, LeavesNoGradientInTheInputOfWhatFailed) {
  const Parameter w("w", values({1, 2}));
  const Variable h = ops::mul(w, 3.0f), f = faulty(h, GetParam());
  EXPECT_EQ(error_of([&] { ops::sum(f).backward(); }), "no more data");
  ops::sum(ops::mul(h, 5.0f)).backward();
  EXPECT_THAT(grad(w), ElementsAre(15, 15));
}

TEST_P(FailedBackward, LeavesWhatRecomputedPartsSentOutAlone) {
  const Parameter w("w", values({1, 2}));
  const Variable h = ops::mul(w, 3.0f), g = ops::square(h);
  const Variable f = nn::recompute(h, [&](const Variable& v) {
    return ops::add(faulty(ops::mul(v, 1.0f), GetParam()), ops::square(v));
  });
  EXPECT_EQ(error_of([&] { ops::add(ops::sum(g), ops::sum(f)).backward(); }), "no more data");
  ops::sum(ops::mul(g, 1.0f)).backward();
  EXPECT_THAT(grad(w), ElementsAre(18, 36));
}

INSTANTIATE_TEST_SUITE_P(BeforeAndAfterItsGradientWent, FailedBackward, ::testing::Bool());

TEST(FailedBackward, LeavesThatHeldNoGradientHoldNone) {
  const Parameter early("early", values({1})), late("late", values({1})),
      other("other", values({1}));
  // Late's gradient comes first.
  const Variable loss = ops::mul(faulty(ops::mul(early, 1.0f), true), late);
  EXPECT_EQ(error_of([&] { loss.backward(); }), "no more data");
  EXPECT_FALSE(late.has_grad());
  EXPECT_FALSE(early.has_grad());
  for (const Parameter& p : {early, late}) ops::sum(ops::mul(p, 5.0f)).backward();
  EXPECT_THAT(grad(early), ElementsAre(5));
  EXPECT_THAT(grad(late), ElementsAre(5));
}

TEST(FailedBackward, AnEarlierGradientThatGotAPartCannotBeReadUntilItIsZeroed) {
  const Parameter w("w", values({1})), untouched("untouched", values({1}));
  ops::add(ops::sum(w), ops::sum(untouched)).backward();
  const Variable loss = ops::add(ops::mul(faulty(ops::mul(untouched, 1.0f)), w), ops::square(w));
  EXPECT_EQ(error_of([&] { loss.backward(); }), "no more data");
  EXPECT_THAT(grad(untouched), ElementsAre(1));
  EXPECT_THAT(error_of([&] { w.grad(); }),
              HasSubstr("[grad] the gradient of 'w' f32[1] is incomplete"));
  const auto sgd = optim::make_sgd({untouched, w});
  EXPECT_THAT(error_of([&] { sgd->step(0.1f); }), HasSubstr("'w' f32[1] is incomplete"));
  EXPECT_THAT(untouched.data().to_vector<float>(), ElementsAre(1)) << "nothing was updated";
  EXPECT_EQ(sgd->steps(), 0);
  EXPECT_THAT(error_of([&] { optim::grad_norm(sgd->parameters()); }), HasSubstr("is incomplete"));
  w.zero_grad();
  ops::sum(ops::mul(w, 7.0f)).backward();
  EXPECT_THAT(grad(w), ElementsAre(7));
}

TEST(FailedBackward, AHookThatThrowsCountsLikeAnOperation) {
  const Parameter p("p", values({1})), q("q", values({1}));
  const Variable h = ops::mul(p, 2.0f), g = ops::square(h);
  const HookHandle hook =
      p.add_grad_hook([](const Parameter&) { throw EnvironmentError("the hook failed"); });
  EXPECT_EQ(error_of([&] { ops::add(ops::sum(g), ops::mul(p, q)).backward(); }), "the hook failed");
  EXPECT_FALSE(p.has_grad());
  EXPECT_FALSE(q.has_grad());
  // A leaf that is its own root.
  EXPECT_EQ(error_of([&] { p.backward(); }), "the hook failed");
  EXPECT_FALSE(p.has_grad());
  // One operation, which may be tried again.
  const Variable y = ops::square(p);
  EXPECT_EQ(error_of([&] { y.backward(); }), "the hook failed");
  hook.remove();
  y.backward();
  EXPECT_THAT(grad(p), ElementsAre(2));
}

TEST(FailedBackward, GoesOnWithTheThreadAsItWas) {
  const Parameter w("w", values({1}));
  EXPECT_EQ(error_of([&] { faulty(w).backward(); }), "no more data");
  EXPECT_TRUE(grad_enabled());
  const Variable part =
      nn::recompute(w, [](const Variable& v) { return faulty(ops::mul(v, 1.0f)); });
  const ops::PrecisionScope precision(DType::bf16);
  EXPECT_EQ(error_of([&] { part.backward(); }), "no more data");
  EXPECT_TRUE(grad_enabled());
  EXPECT_EQ(ops::PrecisionScope::current(), DType::bf16);
  EXPECT_FALSE(nn::RandomScope::place().has_value());
}

TEST(FailedBackward, AForwardThatThrewLeavesRecomputationUsable) {
  const Parameter w("w", values({1, 2}));
  EXPECT_EQ(error_of([&] {
              nn::recompute(
                  w, [](const Variable&) -> Variable { throw EnvironmentError("no forward"); });
            }),
            "no forward");
  const Variable y = nn::recompute(w, [](const Variable& v) { return ops::square(v); });
  ops::sum(y).backward();
  EXPECT_THAT(grad(w), ElementsAre(2, 4));
}

}  // namespace
}  // namespace lockstep
