#include "core/optim/gradient_scale.h"

#include <gmock/gmock.h>

#include "core/base/error.h"

namespace lockstep::optim {
namespace {

TEST(GradientScale, HalvesAndDoublesByPowersOfTwo) {
  GradientScale scale;
  EXPECT_EQ(scale.factor(), 65536.0f);
  EXPECT_EQ(scale.unscale() * scale.factor(), 1.0f);
  EXPECT_TRUE(scale.overflowed());
  EXPECT_EQ(scale.factor(), 32768.0f);
  for (int64_t i = 0; i < GradientScale::kSteady - 1; ++i) scale.succeeded();
  EXPECT_EQ(scale.factor(), 32768.0f);
  scale.succeeded();
  EXPECT_EQ(scale.factor(), 65536.0f);
  EXPECT_EQ(scale.state(), (GradientScale::State{16, 0, 1}));
}

// An overflow starts the count of steady steps anew.
TEST(GradientScale, DoublesAfterSteadyStepsAlone) {
  GradientScale scale;
  for (int64_t i = 0; i < GradientScale::kSteady - 1; ++i) scale.succeeded();
  EXPECT_TRUE(scale.overflowed());
  scale.succeeded();
  EXPECT_EQ(scale.state(), (GradientScale::State{15, 1, 1}));
}

TEST(GradientScale, HasEnds) {
  GradientScale scale;
  scale.set_state({0, 5, 7});
  EXPECT_FALSE(scale.overflowed());
  EXPECT_EQ(scale.state(), (GradientScale::State{0, 5, 7}));
  scale.set_state({GradientScale::kMost, GradientScale::kSteady - 1, 0});
  scale.succeeded();
  EXPECT_EQ(scale.state(), (GradientScale::State{GradientScale::kMost, 0, 0}));
}

TEST(GradientScale, RefusesStatesThatNoRunHas) {
  GradientScale scale;
  for (const GradientScale::State& state :
       {GradientScale::State{-1, 0, 0}, GradientScale::State{GradientScale::kMost + 1, 0, 0},
        GradientScale::State{3, -1, 0}, GradientScale::State{3, GradientScale::kSteady, 0},
        GradientScale::State{3, 0, -1}})
    EXPECT_THROW(scale.set_state(state), UsageError);
  EXPECT_EQ(scale.state(), GradientScale::State{});
}

}  // namespace
}  // namespace lockstep::optim
