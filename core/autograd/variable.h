// Define-by-run reverse-mode differentiation.
//
// A Variable is a handle to a tensor that remembers how it was computed. Operations
// (core/ops/functions.h) record a Node each; backward() runs the nodes in reverse order of
// creation. Leaves gather their gradients, and each leaf has hooks, "gradient is final": DDP and
// FSDP meet autograd there and nowhere else.
//
// Thread-safety: a graph belongs to the thread that built it. Parameters may not be shared by two
// graphs that run at once.
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

  // For leaves only: on a computed or undefined variable these throw UsageError, but for
  // has_grad().
  //
  // The gradient gathered so far; undefined where there is none. Throws UsageError where a
  // backward() that failed added a part of its own to it: zero_grad() and do the step again.
  Tensor grad() const;
  bool has_grad() const;
  // Forgets the gradient but keeps its memory: the next backward overwrites instead of adding.
  void zero_grad() const;
  // Gives the leaf the memory for its gradient, in the leaf's shape and dtype (DDP: a view of a
  // bucket). Holds no gradient yet.
  void set_grad_buffer(Tensor buffer) const;
  // The memory, whether or not it holds a gradient; undefined before the first backward.
  Tensor grad_buffer() const;
  // Declares that the gradient buffer's contents are the gradient.
  void mark_grad_valid() const;

  // Differentiates with respect to all leaves. `seed` is the gradient of this variable: 1 by
  // default, which needs one element. The graph is released as it runs: a second backward() throws
  // UsageError naming the operation. So does one that needs values that were changed in place since
  // forward.
  //
  // A backward() that throws – in an operation, a hook, a recomputation – leaves nothing behind:
  // leaves that held no gradient hold none, and values in between forget theirs. A leaf that held a
  // gradient and received a part of the new one cannot be put back: its grad() throws until
  // zero_grad(). Hooks that have run are not undone.
  void backward(const Tensor& seed = {}) const;

  // The same values, cut off from the graph.
  Variable detach() const;

  // For operations: the result of `node`, whose inputs are node's edges. `node` is not null.
  static Variable from_node(Tensor data, std::shared_ptr<Node> node);
  const std::shared_ptr<detail::VariableImpl>& impl() const { return impl_; }

 protected:
  explicit Variable(std::shared_ptr<detail::VariableImpl> impl) : impl_(std::move(impl)) {}
  detail::GradState& leaf_state(std::string_view call) const;
  std::shared_ptr<detail::VariableImpl> impl_;
};

// A leaf with a name, which requires a gradient unless frozen. All calls but requires_grad() and
// has_grad() throw UsageError on an undefined one.
class Parameter : public Variable {
 public:
  using GradHook = std::function<void(const Parameter&)>;

  Parameter() = default;
  Parameter(std::string name, Tensor data, bool requires_grad = true);

  const std::string& name() const;
  void set_name(std::string name) const;
  // A hook runs once in each backward() in which this parameter received a gradient, when nothing
  // more will be added to it. It may read the gradient and change its values in place. Hooks run in
  // the order in which they were added; HookList says what happens where a hook adds or removes
  // some. What a hook throws ends the backward(). No handle is needed to keep the hook. Throws
  // UsageError on an empty function.
  HookHandle add_grad_hook(GradHook hook) const;
  // For those who sum the gradient or send it on (DDP, FSDP). A taker runs after all hooks, so that
  // it takes what they made of the gradient. Only the taker that was added last runs. When it is
  // removed, the one before it is back.
  HookHandle add_grad_taker(GradHook taker) const;
  // Whether that taker is the one that runs.
  bool is_taken_by(const HookHandle& taker) const;
  // For gradients that lie elsewhere between backward passes (FSDP: in slices on the ranks).
  // `provide` runs when a gradient arrives and there is no memory for it: it calls
  // set_grad_buffer(), or throws. While there is no memory, grad() and has_grad() throw UsageError
  // with `elsewhere`. An empty function undoes it.
  using GradSource = std::function<void()>;
  void set_grad_source(GradSource provide, std::string elsewhere) const;
  // Replaces the values' tensor. A backward() that needs the values of before throws UsageError,
  // also where equal ones came back. Who only takes the memory away for a while keeps the tensor,
  // and calls attach() and detach() on its storage (Storage::absent): that is no change.
  void set_data(Tensor data) const;
  // Holds for what is recorded from now on. Throws UsageError for values that are not
  // floating-point.
  void set_requires_grad(bool requires_grad) const;

  // Declares that the values are one part of a larger parameter (FSDP: a rank's slice, flat). Other
  // ranks may hold the rest. Throws UsageError unless part.length() is the number of values.
  void set_slice_of(const ShardSpec& part) const;
  bool is_slice() const;
  // Which part of which whole; all of itself where nothing was declared.
  ShardSpec slice() const;

  // How initial values are drawn, for any range of elements: values[i] is element first + i of the
  // flattened parameter, so that a shard draws what the whole would have there. `values`: f32,
  // contiguous.
  using Initializer = std::function<void(int64_t first, const Tensor& values)>;
  void set_initializer(Initializer initializer) const;
  // Writes elements [first, first + values.numel()) of the initial values. Throws UsageError where
  // none were declared (nn::Module::initialize does) or the range lies outside.
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
// The opposite, for what must be recorded within backward().
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

// The leaves that a backward() from `root` would reach; for finding parameters that took no part in
// a step.
std::vector<Parameter> reachable_leaves(const Variable& root);

}  // namespace lockstep
