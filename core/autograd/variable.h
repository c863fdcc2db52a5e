// Define-by-run reverse-mode differentiation.
//
// A Variable is a handle to a tensor that remembers how it was computed. Each operation
// (core/ops/functions.h) records a Node. backward() runs the nodes in reverse order of creation.
// Leaves gather their gradients, and each leaf has hooks for "gradient is final". DDP and FSDP
// touch autograd only there.
//
// Thread-safety: a graph belongs to the thread that built it. Two graphs that run at once must not
// share parameters.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/autograd/hook_list.h"
#include "core/tensor/shard_spec.h"
#include "core/tensor/tensor.h"

namespace lockstep {

class Node;
class Parameter;

namespace detail {
struct GradState;
struct VariableImpl;
Parameter as_parameter(std::shared_ptr<VariableImpl> impl);
}  // namespace detail

class Variable {
 public:
  Variable() = default;
  // A leaf.
  explicit Variable(Tensor data, bool requires_grad = false);

  bool defined() const { return impl_ != nullptr; }
  const Tensor& data() const;
  const Shape& shape() const { return data().shape(); }
  DType dtype() const { return data().dtype(); }
  Device device() const { return data().device(); }
  double item() const { return data().item(); }

  bool requires_grad() const;
  bool is_leaf() const;

  // For leaves only. On a computed or undefined variable these throw UsageError, except has_grad().
  //
  // The gradient gathered so far. Undefined if there is none. Throws UsageError if a failed
  // backward() added a part to it: call zero_grad() and repeat the step.
  Tensor grad() const;
  bool has_grad() const;
  // Forgets the gradient but keeps its memory: the next backward overwrites instead of adding.
  void zero_grad() const;
  // Sets the memory for the leaf's gradient, in the leaf's shape and dtype (DDP: a view of a
  // bucket). It holds no gradient yet.
  void set_grad_buffer(Tensor buffer) const;
  // The memory, with or without a gradient. Undefined before the first backward.
  Tensor grad_buffer() const;
  // Declares that the gradient buffer contains the gradient.
  void mark_grad_valid() const;

  // Differentiates with respect to all leaves. `seed` is the gradient of this variable. The default
  // is 1, which needs a variable of one element. The graph is released as it runs, so a second
  // backward() throws UsageError that names the operation. So does one that needs values that were
  // changed in place since forward.
  //
  // A backward() that throws (in an operation, a hook, a recomputation) leaves nothing behind.
  // Leaves that held no gradient hold none, and values in between forget theirs. A leaf that held a
  // gradient and received a part of the new one cannot be restored: its grad() throws until
  // zero_grad(). Hooks that have run are not undone.
  void backward(const Tensor& seed = {}) const;

  // The same values, detached from the graph.
  Variable detach() const;

  // For operations: the result of `node`, which holds the edges to the inputs. `node` must not be
  // null.
  static Variable from_node(Tensor data, std::shared_ptr<Node> node);
  const std::shared_ptr<detail::VariableImpl>& impl() const { return impl_; }

 protected:
  explicit Variable(std::shared_ptr<detail::VariableImpl> impl) : impl_(std::move(impl)) {}
  detail::GradState& leaf_state(std::string_view call) const;
  std::shared_ptr<detail::VariableImpl> impl_;
};

// A leaf with a name. It requires a gradient unless frozen. On an undefined parameter all calls
// except requires_grad() and has_grad() throw UsageError.
class Parameter : public Variable {
 public:
  using GradHook = std::function<void(const Parameter&)>;

  Parameter() = default;
  Parameter(std::string name, Tensor data, bool requires_grad = true);

  const std::string& name() const;
  void set_name(std::string name) const;
  // A hook runs once in each backward() that gives this parameter a gradient, when nothing more
  // will be added to it. It may read the gradient and change its values in place. Hooks run in the
  // order in which they were added; see HookList for hooks that add or remove hooks. An exception
  // of a hook ends the backward(). The hook stays without its handle. Throws UsageError for an
  // empty function.
  HookHandle add_grad_hook(GradHook hook) const;
  // For wrappers that sum the gradient or send it on (DDP, FSDP). A taker runs after all hooks, so
  // it takes their result. Only the taker that was added last runs. If it is removed, the one
  // before it runs again.
  HookHandle add_grad_taker(GradHook taker) const;
  // Whether `taker` is the one that runs.
  bool is_taken_by(const HookHandle& taker) const;
  // For gradients that are elsewhere between backward passes (FSDP: in slices on the ranks).
  // `provide` runs when a gradient arrives without memory. It must call set_grad_buffer() or throw.
  // While there is no memory, grad() and has_grad() throw UsageError with `elsewhere`. An empty
  // function undoes it.
  using GradSource = std::function<void()>;
  void set_grad_source(GradSource provide, std::string elsewhere) const;
  // Replaces the values' tensor. A backward() that needs the earlier values throws UsageError, even
  // if the new ones are equal. To take only the memory away for a while, keep the tensor and call
  // attach() and detach() on its storage (Storage::absent): that does not count as a change.
  void set_data(Tensor data) const;
  // Applies to what is recorded from now on. Throws UsageError for values that are not
  // floating-point.
  void set_requires_grad(bool requires_grad) const;

  // Declares that the values are one part of a larger parameter (FSDP: a rank's slice, flat). Other
  // ranks may hold the rest. Throws UsageError unless part.length() is the number of values.
  void set_slice_of(const ShardSpec& part) const;
  bool is_slice() const;
  // Which part of which whole. The whole of itself if nothing was declared.
  ShardSpec slice() const;

  // Draws initial values for any range of elements. values[i] is element first + i of the flattened
  // parameter, so that a shard draws what the whole would draw there. `values`: f32, contiguous.
  using Initializer = std::function<void(int64_t first, const Tensor& values)>;
  void set_initializer(Initializer initializer) const;
  // Writes elements [first, first + values.numel()) of the initial values. Throws UsageError if
  // there is no initializer (nn::Module::initialize sets it), or if the range is outside.
  void draw_initial(int64_t first, const Tensor& values) const;

 private:
  friend class Variable;
  friend Parameter detail::as_parameter(std::shared_ptr<detail::VariableImpl> impl);
  explicit Parameter(std::shared_ptr<detail::VariableImpl> impl) : Variable(std::move(impl)) {}
  detail::VariableImpl& state(std::string_view call) const;
};

// While it lives, operations of this thread record nothing.
class NoGradGuard {
 public:
  NoGradGuard();
  ~NoGradGuard();
  NoGradGuard(const NoGradGuard&) = delete;
  NoGradGuard& operator=(const NoGradGuard&) = delete;

 private:
  bool previous_;
};
// The opposite: for what must be recorded within backward().
class EnableGradGuard {
 public:
  EnableGradGuard();
  ~EnableGradGuard();
  EnableGradGuard(const EnableGradGuard&) = delete;
  EnableGradGuard& operator=(const EnableGradGuard&) = delete;

 private:
  bool previous_;
};
bool grad_enabled();

// The leaves that a backward() from `root` would reach. It finds parameters that took no part in a
// step.
std::vector<Parameter> reachable_leaves(const Variable& root);

}  // namespace lockstep
