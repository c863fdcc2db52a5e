// Optimizers. They see parameters and gradients, but know nothing of models or of how these are
// spread over ranks.
//
//   optimizer.step(lr_at(schedule, step), clip_scale(norm, max_norm));
//
// All parameters are on one device, and one launch updates them all.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/variable.h"
#include "core/optim/step_numbers_on.h"

namespace lockstep::optim {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Updates every parameter that has a gradient. Others, and their states, stay unchanged.
  // Gradients are multiplied by `grad_scale` as they are read, so clipping needs no separate pass.
  //
  // Throws UsageError and changes nothing if `lr` or `grad_scale` is not finite. clip_scale()
  // returns NaN for a norm that is not finite. step() does the same if a parameter's values have
  // another size, dtype or layout than at first.
  void step(float lr, float grad_scale = 1.0f);
  // The same with numbers that only the device may know yet: queues the update and returns. The
  // kernel changes nothing if it finds `apply` 0 there; the caller says so by forget_step() once it
  // knows. `numbers.step` must be steps() + 1. Throws UsageError for numbers of another device.
  void step(const StepNumbersOn& numbers);
  // The last step() or count_step() changed nothing, and does not count. Once for each.
  void forget_step();
  // What the last step() queued runs once more, by itself: a recorded step (core/device/capture.h).
  // It leaves out the parameters that the last step() left out.
  void count_step();
  void zero_grad() const;

  // What a checkpoint must hold besides the parameters: f32 tensors named "<state>.<parameter>"
  // ("exp_avg.wte.weight"), in a fixed order, in the parameters' shapes. They exist from the start.
  // To continue a run, fill them and call set_steps().
  std::vector<std::pair<std::string, Tensor>> state() const;
  int64_t steps() const { return steps_; }
  // By name, the number of updates of each parameter that missed some steps, because it had no
  // gradient: it joined late, or was frozen for a while. Empty if no parameter missed any.
  std::map<std::string, int64_t> updates_out_of_step() const;
  // Takes the results of steps() and updates_out_of_step(). {} says that no parameter ever missed a
  // step. Throws UsageError for an unknown parameter name, and for more updates than steps.
  void set_steps(int64_t steps, const std::map<std::string, int64_t>& updates_out_of_step);

  const std::vector<Parameter>& parameters() const { return parameters_; }

 protected:
  // Throws UsageError unless parameters are contiguous f32 on one device with distinct names.
  // `states`: names of the tensors kept for each parameter.
  Optimizer(std::vector<Parameter> parameters, std::vector<std::string> states);
  // Queues the update of these parameters, which have elements and a gradient. `numbers` is in
  // memory of device().
  virtual void update(std::span<const size_t> indices, const StepNumbers* numbers) = 0;

  Device device() const { return device_; }
  // Number of steps in which this parameter had no gradient.
  int64_t missed(size_t index) const { return missed_[index]; }

  float* value(size_t index) const { return parameters_[index].data().data<float>(); }
  const float* gradient(size_t index) const {
    return parameters_[index].grad_buffer().data<float>();
  }
  float* state(size_t index, size_t which) const {
    return states_[which * parameters_.size() + index].data<float>();
  }

 private:
  void check_unchanged() const;
  void queue_update(const StepNumbers* numbers);

  std::vector<Parameter> parameters_;
  std::vector<std::string> state_names_;
  std::vector<Tensor> states_;  // all of the first kind, then all of the second
  Device device_;
  std::optional<StepNumbersOn> numbers_;  // of step(lr, grad_scale)
  int64_t steps_ = 0;
  std::vector<size_t> without_gradient_;  // parameters in the last step
  std::vector<int64_t> missed_;           // by parameter: number of steps without a gradient
};

// Which parameters decay. The default is those of two dimensions or more: matrices and embeddings,
// but not biases and norms. Slices (FSDP) are flat, so a custom rule must look at
// slice().global_shape.
using DecayRule = std::function<bool(const Parameter&)>;
bool decay_matrices(const Parameter& parameter);
bool decay_all(const Parameter& parameter);

struct SgdOptions {
  float momentum = 0.0f;
  float weight_decay = 0.0f;  // added to the gradient
  bool nesterov = false;
  DecayRule decays = decay_all;
};
std::unique_ptr<Optimizer> make_sgd(std::vector<Parameter> parameters,
                                    const SgdOptions& options = {});

// Adam (Kingma and Ba, 2015). The bias correction counts each parameter's own updates.
struct AdamOptions {
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  // make_adam: added to the gradient. make_adamw: decoupled (Loshchilov and Hutter, 2019).
  float weight_decay = 0.0f;
  DecayRule decays = decay_matrices;
};
std::unique_ptr<Optimizer> make_adam(std::vector<Parameter> parameters,
                                     const AdamOptions& options = {});
std::unique_ptr<Optimizer> make_adamw(std::vector<Parameter> parameters,
                                      const AdamOptions& options = {});

}  // namespace lockstep::optim
