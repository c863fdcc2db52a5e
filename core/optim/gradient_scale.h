// GradientScale: the factor by which a loss is multiplied before backward, so that small gradients
// do not vanish in f16.
#pragma once

#include <cstdint>

namespace lockstep::optim {

// The factor is a power of two, so it changes no digit of what it does not overflow. It is halved
// after a step whose gradients overflowed, and doubled after kSteady steps in a row without one.
// All ranks see the same gradients' norm, so they agree on it. Not thread-safe.
class GradientScale {
 public:
  static constexpr int64_t kFirst = 16, kMost = 24;  // powers of two
  static constexpr int64_t kSteady = 1000;

  // What a run needs to continue with the same bits.
  struct State {
    int64_t power = kFirst;
    int64_t steady = 0;   // steps since the factor changed
    int64_t skipped = 0;  // steps that changed no weights, since the run's start
    friend bool operator==(const State&, const State&) = default;
  };

  const State& state() const { return state_; }
  // Throws UsageError for a state that no run can have.
  void set_state(const State& state);

  float factor() const { return static_cast<float>(int64_t{1} << state_.power); }
  float unscale() const { return 1.0f / factor(); }

  // A step's gradients were finite.
  void succeeded();
  // They were not: the step is skipped, and the next one has half the factor. Returns false, and
  // changes nothing, if the factor is 1: then the gradients themselves are not finite.
  bool overflowed();

 private:
  State state_;
};

}  // namespace lockstep::optim
