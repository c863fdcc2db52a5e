// Initial values. Each parameter draws from the stream (seed, site_of(its full name)). So its
// values depend on nothing else, and any range of them can be drawn separately. Each function
// declares the parameter's initializer (Parameter::draw_initial), and writes the values at once if
// the parameter has memory.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "core/autograd/variable.h"
#include "core/nn/random.h"

namespace lockstep::nn {

// The first two throw UsageError outside of InitialDraws, and so outside of Module::initialize():
// before that a name may be incomplete, and two equal names would draw equal numbers.
void init_normal(const Parameter& parameter, float mean, float stddev, uint64_t seed);
void init_uniform(const Parameter& parameter, float low, float high, uint64_t seed);
void init_constant(const Parameter& parameter, float value);

// An f32 tensor that counts as parameter memory. It has no memory while a DeferredInit lives.
Tensor parameter_data(const Shape& shape, float value = 0.0f);

// While it lives, the functions above may draw. It refuses two parameters of this thread that would
// draw the same numbers, because they have the same seed and the same name or site: UsageError
// names both. Module::initialize() opens one for the whole tree. An inner one does nothing.
class InitialDraws {
 public:
  InitialDraws();
  ~InitialDraws();
  InitialDraws(const InitialDraws&) = delete;
  InitialDraws& operator=(const InitialDraws&) = delete;

  // The stream of `parameter`. Throws UsageError if no InitialDraws lives, or if another parameter
  // has the stream.
  static RandomKey stream(const Parameter& parameter, uint64_t seed);

 private:
  std::unordered_map<uint64_t, SiteNames> names_;  // by seed
  bool outermost_;
};

// While it lives, modules that this thread builds have parameters without memory: shapes and names,
// but no values. The code that shards the model then draws only each rank's part;
// Module::materialize() draws everything. Until then, reading values throws UsageError.
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
