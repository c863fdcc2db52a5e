#include "core/optim/optimizer.h"

#include <cmath>
#include <unordered_set>

namespace lockstep::optim {
namespace {

// Kernels read the memory as dense f32.
void check_trainable(const Parameter& p) {
  check(p.defined(), "[optimizer] expected contiguous f32 parameters, got an undefined one");
  check(p.dtype() == DType::f32 && p.data().is_contiguous(),
        "[optimizer] expected contiguous f32 parameters, got '", p.name(), "' ", p.data(),
        " with strides ", p.data().strides());
}

}  // namespace

Optimizer::Optimizer(std::vector<Parameter> parameters, std::vector<std::string> states)
    : parameters_(std::move(parameters)),
      state_names_(std::move(states)),
      missed_(parameters_.size(), 0) {
  std::unordered_set<std::string> names;
  for (const Parameter& p : parameters_) {
    check_trainable(p);
    if (names.empty()) device_ = p.device();
    check(p.device() == device_, "[optimizer] expected parameters on one device, got '",
          parameters_.front().name(), "' on ", device_, " and '", p.name(), "' on ", p.device(),
          "; make an optimizer for each device");
    check(names.insert(p.name()).second, "[optimizer] two parameters are named '", p.name(),
          "'; states are kept by name");
  }
  MemoryScope scope(MemoryCategory::optimizer);
  for (size_t kind = 0; kind < state_names_.size(); ++kind)
    for (const Parameter& p : parameters_)
      states_.push_back(Tensor::zeros(p.shape(), DType::f32, p.device()));
}

void Optimizer::step(float lr, float grad_scale) {
  check(std::isfinite(lr) && std::isfinite(grad_scale),
        "[optimizer] expected a finite learning rate and gradient scale, got ", lr, " and ",
        grad_scale,
        "; nothing was updated. Gradients whose norm is not finite have no scale: skip the step, "
        "after zero_grad()");
  check_unchanged();
  if (!numbers_) numbers_.emplace(device_);
  numbers_->send({.step = steps_ + 1, .lr = lr, .grad_scale = grad_scale, .apply = 1});
  queue_update(numbers_->on_device());
}

void Optimizer::step(const StepNumbersOn& numbers) {
  check(parameters_.empty() || numbers.device() == device_,
        "[optimizer] expected the step's numbers on ", device_, ", where the parameters are, got ",
        "them on ", numbers.device());
  check_unchanged();
  queue_update(numbers.on_device());
}

// Before anything changes.
void Optimizer::check_unchanged() const {
  for (size_t i = 0; i < states_.size(); ++i) {
    const Parameter& p = parameters_[i % parameters_.size()];
    check(p.data().numel() == states_[i].numel(), "[optimizer] '", p.name(), "' is ", p.data(),
          ", but its state is ", states_[i],
          "; an optimizer belongs to parameters of the shapes that it was made with");
  }
  for (const Parameter& p : parameters_) {
    check_trainable(p);
    p.grad();  // throws if one is incomplete
  }
}

void Optimizer::queue_update(const StepNumbers* numbers) {
  ++steps_;
  without_gradient_.clear();
  std::vector<size_t> updated;
  // Backwards, for a CPU's caches: the norm has just read the last gradients, and the next step
  // begins with the first weights.
  for (size_t i = parameters_.size(); i-- > 0;) {
    if (!parameters_[i].has_grad()) {
      without_gradient_.push_back(i);
    } else if (parameters_[i].data().numel() > 0) {
      parameters_[i].data().mark_changed("the optimizer's step()");
      updated.push_back(i);
    }
  }
  for (const size_t i : without_gradient_) ++missed_[i];
  if (!updated.empty()) update(updated, numbers);
}

void Optimizer::count_step() {
  ++steps_;
  for (const size_t i : without_gradient_) ++missed_[i];
  for (const Parameter& p : parameters_) p.data().mark_changed("the optimizer's step()");
}

void Optimizer::forget_step() {
  check(steps_ > 0, "[optimizer] forget_step() before any step()");
  --steps_;
  for (const size_t i : without_gradient_) --missed_[i];
}

void Optimizer::zero_grad() const {
  for (const Parameter& p : parameters_) p.zero_grad();
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> named;
  for (size_t kind = 0; kind < state_names_.size(); ++kind)
    for (size_t i = 0; i < parameters_.size(); ++i)
      named.emplace_back(state_names_[kind] + "." + parameters_[i].name(),
                         states_[kind * parameters_.size() + i]);
  return named;
}

std::map<std::string, int64_t> Optimizer::updates_out_of_step() const {
  std::map<std::string, int64_t> counts;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (missed_[i] > 0) counts[parameters_[i].name()] = steps_ - missed_[i];
  return counts;
}

void Optimizer::set_steps(int64_t steps,
                          const std::map<std::string, int64_t>& updates_out_of_step) {
  check(steps >= 0, "[optimizer] expected a number of steps, got ", steps);
  std::vector<int64_t> missed(parameters_.size(), 0);
  for (const auto& [name, updates] : updates_out_of_step) {
    size_t i = 0;
    while (i < parameters_.size() && parameters_[i].name() != name) ++i;
    check(i < parameters_.size(), "[optimizer] no parameter is named '", name, "', of which ",
          updates, " updates were given");
    check(updates >= 0 && updates <= steps, "[optimizer] expected 0 to ", steps, " updates of '",
          name, "' in ", steps, " steps, got ", updates);
    missed[i] = steps - updates;
  }
  steps_ = steps;
  missed_ = std::move(missed);
  without_gradient_.clear();
}

bool decay_matrices(const Parameter& parameter) {
  return parameter.slice().global_shape().size() >= 2;
}
bool decay_all(const Parameter&) { return true; }

}  // namespace lockstep::optim
