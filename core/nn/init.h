// Initial values. Each parameter draws from the stream (seed, site_of(its full name)), so its
// values depend on nothing else, and any range of them can be drawn by itself: each function
// declares the parameter's initializer (Parameter::draw_initial), and writes the values at once
// where the parameter has memory.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "core/autograd/variable.h"
#include "core/nn/random.h"

namespace lockstep::nn {

// The first two throw UsageError outside of InitialDraws, thus of Module::initialize(): a name may
// not be whole before, and two that are equal draw equal numbers.
void init_normal(const Parameter& parameter, float mean, float stddev, uint64_t seed);
void init_uniform(const Parameter& parameter, float low, float high, uint64_t seed);
void init_constant(const Parameter& parameter, float value);

// An f32 tensor counted as parameter memory; without memory where a DeferredInit is open.
Tensor parameter_data(const Shape& shape, float value = 0.0f);

// While it lives, the functions above draw, and refuse two parameters of this thread that would
// draw the same numbers, because their seed is one and their names are or have one site: UsageError
// names both. Module::initialize() opens one for the whole tree; one that is opened within another
// does nothing.
class InitialDraws {
 public:
  InitialDraws();
  ~InitialDraws();
  InitialDraws(const InitialDraws&) = delete;
  InitialDraws& operator=(const InitialDraws&) = delete;

  // Where `parameter` draws. Throws UsageError where none lives, or another parameter draws there.
  static RandomKey stream(const Parameter& parameter, uint64_t seed);

 private:
  std::unordered_map<uint64_t, SiteNames> names_;  // by seed
  bool outermost_;
};

// While it lives, modules that this thread builds have parameters without memory: shapes and names,
// but no values. Whoever shards the model then draws each rank's part alone, and
// Module::materialize() all of it. Until then, reading values throws UsageError.
class DeferredInit {
 public:
  DeferredInit();
  ~DeferredInit();
  DeferredInit(const DeferredInit&) = delete;
  DeferredInit& operator=(const DeferredInit&) = delete;

 private:
  bool previous_;
};

}  // namespace lockstep::nn
