#include "core/nn/init.h"

#include <utility>

#include "core/device/kernels.h"

namespace lockstep::nn {
namespace {

thread_local bool t_deferred = false;
thread_local SiteNames* t_draws = nullptr;

RandomKey stream_of(const Parameter& parameter, uint64_t seed) {
  return {.seed = seed, .site = t_draws ? t_draws->claim(parameter.name()) : site_of(parameter.name())};
}

void declare(const Parameter& parameter, Parameter::Initializer initializer) {
  parameter.set_initializer(std::move(initializer));
  if (parameter.data().storage()->present()) parameter.draw_initial(0, parameter.data());
}

}  // namespace

void init_normal(const Parameter& parameter, float mean, float stddev, uint64_t seed) {
  declare(parameter, [=, stream = stream_of(parameter, seed)](int64_t first, const Tensor& values) {
    kernels(values.device()).normal(values.numel(), mean, stddev, stream, first, values.data<float>());
  });
}

void init_uniform(const Parameter& parameter, float low, float high, uint64_t seed) {
  declare(parameter, [=, stream = stream_of(parameter, seed)](int64_t first, const Tensor& values) {
    kernels(values.device()).uniform(values.numel(), low, high, stream, first, values.data<float>());
  });
}

void init_constant(const Parameter& parameter, float value) {
  declare(parameter, [value](int64_t, const Tensor& values) { values.fill_(value); });
}

Tensor parameter_data(const Shape& shape, float value) {
  if (t_deferred) {
    const auto bytes = static_cast<size_t>(byte_count(shape, DType::f32));
    return Tensor::wrap(Storage::absent(bytes, kCpu, "the model was built under nn::DeferredInit; shard it, or call materialize()"), shape,
                        DType::f32);
  }
  MemoryScope scope(MemoryCategory::parameters);
  return Tensor::full(shape, value);
}

InitialDraws::InitialDraws() : outermost_(t_draws == nullptr) {
  if (outermost_) t_draws = &names_;
}
InitialDraws::~InitialDraws() {
  if (outermost_) t_draws = nullptr;
}

DeferredInit::DeferredInit() : previous_(std::exchange(t_deferred, true)) {}
DeferredInit::~DeferredInit() { t_deferred = previous_; }

}  // namespace lockstep::nn
