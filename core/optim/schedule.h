// Learning rates over the steps of a run.
#pragma once

#include <cstdint>

namespace lockstep::optim {

struct Schedule {
  enum class Kind : uint8_t { constant, linear, cosine };
  Kind kind = Kind::constant;
  float lr = 1e-3f;     // after the warm-up
  float min_lr = 0.0f;  // at the last step (linear and cosine)
  // The rate rises linearly over these steps: step s has lr·s/warmup.
  int64_t warmup = 0;
  int64_t steps = 0;  // of the whole run; read by linear and cosine
};

// The rate of a step, counted from 1. After the warm-up it falls from lr to min_lr, which the last
// step has. Later steps keep min_lr. Throws UsageError for an impossible schedule: negative counts,
// or a warm-up longer than the run.
float lr_at(const Schedule& schedule, int64_t step);

}  // namespace lockstep::optim
