#include "core/nn/init.h"

#include "core/device/kernels.h"
#include "core/nn/random.h"

namespace lockstep::nn {
namespace {

RandomKey stream_of(const Parameter& parameter, uint64_t seed) { return {.seed = seed, .site = site_of(parameter.name())}; }

float* dense_f32(const Parameter& parameter) {
  check(parameter.data().is_contiguous(), "[init] expected contiguous values for '", parameter.name(), "'");
  return parameter.data().data<float>();
}

}  // namespace

void init_normal(const Parameter& parameter, float mean, float stddev, uint64_t seed) {
  kernels(parameter.device()).normal(parameter.data().numel(), mean, stddev, stream_of(parameter, seed), 0, dense_f32(parameter));
}

void init_uniform(const Parameter& parameter, float low, float high, uint64_t seed) {
  kernels(parameter.device()).uniform(parameter.data().numel(), low, high, stream_of(parameter, seed), 0, dense_f32(parameter));
}

void init_constant(const Parameter& parameter, float value) { parameter.data().fill_(value); }

Tensor parameter_data(const Shape& shape, float value) {
  MemoryScope scope(MemoryCategory::parameters);
  return Tensor::full(shape, value);
}

}  // namespace lockstep::nn
