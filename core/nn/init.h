// Initial values. Each parameter draws from the stream (seed, site_of(its full name)), so its values depend on nothing else.
#pragma once

#include <cstdint>

#include "core/autograd/variable.h"

namespace lockstep::nn {

void init_normal(const Parameter& parameter, float mean, float stddev, uint64_t seed);
void init_uniform(const Parameter& parameter, float low, float high, uint64_t seed);
void init_constant(const Parameter& parameter, float value);

// An f32 tensor counted as parameter memory.
Tensor parameter_data(const Shape& shape, float value = 0.0f);

}  // namespace lockstep::nn
