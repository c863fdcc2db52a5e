#include "core/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/error.h"

namespace lockstep::optim {

float lr_at(const Schedule& s, int64_t step) {
  check(step >= 1, "[schedule] steps count from 1, got ", step);
  check(s.warmup >= 0 && s.steps >= 0,
        "[schedule] expected a warm-up and a number of steps of 0 or more, got ", s.warmup, " and ",
        s.steps);
  check(s.kind == Schedule::Kind::constant || s.warmup <= s.steps, "[schedule] the warm-up of ",
        s.warmup, " steps is longer than the run of ", s.steps);
  if (step <= s.warmup)
    return static_cast<float>(static_cast<double>(s.lr) * static_cast<double>(step) /
                              static_cast<double>(s.warmup));
  if (s.kind == Schedule::Kind::constant) return s.lr;
  const auto span = static_cast<double>(std::max<int64_t>(1, s.steps - s.warmup));
  const double done = std::min(1.0, static_cast<double>(step - s.warmup) / span);
  const double left = s.kind == Schedule::Kind::linear
                          ? 1.0 - done
                          : 0.5 * (1.0 + std::cos(std::numbers::pi * done));
  return static_cast<float>(s.min_lr + (static_cast<double>(s.lr) - s.min_lr) * left);
}

}  // namespace lockstep::optim
