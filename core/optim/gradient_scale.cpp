#include "core/optim/gradient_scale.h"

#include "core/base/error.h"

namespace lockstep::optim {

void GradientScale::set_state(const State& state) {
  check(state.power >= 0 && state.power <= kMost && state.steady >= 0 && state.steady < kSteady &&
            state.skipped >= 0,
        "[optim] expected a gradient scale of 2^0 to 2^", kMost, " that was steady for fewer than ",
        kSteady, " steps, got 2^", state.power, ", ", state.steady, " steps and ", state.skipped,
        " skipped");
  state_ = state;
}

void GradientScale::succeeded() {
  if (++state_.steady < kSteady) return;
  state_.steady = 0;
  if (state_.power < kMost) ++state_.power;
}

bool GradientScale::overflowed() {
  if (state_.power == 0) return false;
  --state_.power;
  state_.steady = 0;
  ++state_.skipped;
  return true;
}

}  // namespace lockstep::optim
