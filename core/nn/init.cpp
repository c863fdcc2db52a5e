#include "core/nn/init.h"

#include <utility>

#include "core/device/kernels.h"

namespace lockstep::nn {
namespace {

thread_local bool t_deferred = false;
thread_local InitialDraws* t_draws = nullptr;

// Draws on the CPU for any device, so initial values have the same bits everywhere.
void on_host(const Tensor& values, const std::function<void(const Tensor& host)>& draw) {
  if (values.device() == kCpu) return draw(values);
  const Tensor host = Tensor::empty(values.shape(), values.dtype());
  draw(host);
  values.copy_(host);
}

void declare(const Parameter& parameter, Parameter::Initializer initializer) {
  parameter.set_initializer(std::move(initializer));
  if (parameter.data().storage()->present()) parameter.draw_initial(0, parameter.data());
}

}  // namespace

void init_normal(const Parameter& parameter, float mean, float stddev, uint64_t seed) {
  declare(parameter,
          [=, stream = InitialDraws::stream(parameter, seed)](int64_t first, const Tensor& values) {
            on_host(values, [&](const Tensor& host) {
              kernels(kCpu).normal(current_queue(kCpu), host.numel(), mean, stddev, stream, first,
                                   host.data<float>());
            });
          });
}

void init_uniform(const Parameter& parameter, float low, float high, uint64_t seed) {
  declare(parameter,
          [=, stream = InitialDraws::stream(parameter, seed)](int64_t first, const Tensor& values) {
            on_host(values, [&](const Tensor& host) {
              kernels(kCpu).uniform(current_queue(kCpu), host.numel(), low, high, stream, first,
                                    host.data<float>());
            });
          });
}

void init_constant(const Parameter& parameter, float value) {
  declare(parameter, [value](int64_t, const Tensor& values) { values.fill_(value); });
}

Tensor parameter_data(const Shape& shape, float value) {
  if (t_deferred) {
    const auto bytes = static_cast<size_t>(byte_count(shape, DType::f32));
    return Tensor::wrap(
        Storage::absent(
            bytes, DeviceScope::current(),
            "the model was built under nn::DeferredInit; shard it, or call materialize()"),
        shape, DType::f32);
  }
  MemoryScope scope(MemoryCategory::parameters);
  return Tensor::full(shape, value, DType::f32, DeviceScope::current());
}

InitialDraws::InitialDraws() : outermost_(t_draws == nullptr) {
  if (outermost_) t_draws = this;
}
InitialDraws::~InitialDraws() {
  if (outermost_) t_draws = nullptr;
}

RandomKey InitialDraws::stream(const Parameter& parameter, uint64_t seed) {
  check(t_draws != nullptr, "[init] '", parameter.name(),
        "' cannot draw its initial values here, because its name may be incomplete and ",
        "not unique yet; draw them in reset_parameters(), which initialize() of the "
        "whole model calls, or open an ",
        "nn::InitialDraws around all draws");
  return {.seed = seed,
          .site = t_draws->names_[seed].claim(parameter.name(), parameter.impl().get())};
}

DeferredInit::DeferredInit() : previous_(std::exchange(t_deferred, true)) {}
DeferredInit::~DeferredInit() { t_deferred = previous_; }

}  // namespace lockstep::nn
