#include "core/autograd/variable.h"

#include <queue>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/autograd/node.h"

namespace lockstep {
namespace {

thread_local bool t_grad_enabled = true;

using State = detail::GradState;

// Latest first, so that a node runs only after every consumer of its output did.
struct LaterFirst {
  bool operator()(const std::shared_ptr<State>& a, const std::shared_ptr<State>& b) const {
    return a->node->sequence() < b->node->sequence();
  }
};

// How many recorded uses each leaf has below `root`: its gradient is final when all of them have sent theirs.
std::unordered_map<State*, int> count_leaf_uses(const std::shared_ptr<State>& root) {
  std::unordered_map<State*, int> uses;
  std::unordered_set<State*> seen{root.get()};
  std::vector<State*> todo{root.get()};
  while (!todo.empty()) {
    State* current = todo.back();
    todo.pop_back();
    if (!current->node) continue;
    check(!current->node->released(), "[backward] the graph of '", current->node->op(), "' was already used by an earlier backward(), ",
          "which frees it as it runs; run the forward pass again before a second backward()");
    for (const Edge& edge : current->node->edges()) {
      if (!edge.needed()) continue;
      State* target = edge.target().get();
      if (!target->node) ++uses[target];
      if (seen.insert(target).second) todo.push_back(target);
    }
  }
  return uses;
}

// Runs the nodes below `root`, whose gradient is set, and tells used(leaf) of every edge into a leaf that has been served. Nodes
// older than `oldest` are left alone: their gradients wait for whoever runs them.
template <typename F>
void run_nodes(const std::shared_ptr<State>& root, uint64_t oldest, const F& used) {
  std::priority_queue<std::shared_ptr<State>, std::vector<std::shared_ptr<State>>, LaterFirst> ready;
  std::unordered_set<State*> queued{root.get()};
  ready.push(root);
  while (!ready.empty()) {
    const std::shared_ptr<State> current = ready.top();
    ready.pop();
    const std::shared_ptr<Node> node = current->node;
    Tensor gradient = std::exchange(current->grad, Tensor());
    // A node without a gradient still passes its leaves' use on: a leaf's gradient must become final.
    if (std::exchange(current->grad_valid, false)) {
      if (!gradient.is_contiguous()) gradient = gradient.contiguous();
      node->backward(gradient);
    }
    gradient = Tensor();
    for (const Edge& edge : node->edges()) {
      if (!edge.needed()) continue;
      const std::shared_ptr<State>& target = edge.target();
      if (!target->node)
        used(*target);
      else if (target->node->sequence() >= oldest && queued.insert(target.get()).second)
        ready.push(target);
    }
    node->mark_released();
  }
}

void check_is_here(const State& leaf) {
  if (leaf.source && !leaf.grad.defined()) throw UsageError(leaf.elsewhere);
}

void run_hook(const State& leaf) {
  const auto owner = leaf.owner.lock();
  if (!leaf.hook || !owner) return;
  const Parameter::GradHook hook = leaf.hook;  // a copy: the hook may replace itself
  hook(detail::as_parameter(owner));
}

}  // namespace

Parameter detail::as_parameter(std::shared_ptr<VariableImpl> impl) { return Parameter(std::move(impl)); }

Variable::Variable(Tensor data, bool requires_grad) : impl_(std::make_shared<detail::VariableImpl>()) {
  check(!requires_grad || is_floating(data.dtype()), "[variable] only floating-point values can require a gradient, got ", data);
  impl_->grad = std::make_shared<State>();
  impl_->grad->shape = data.shape();
  impl_->grad->dtype = data.dtype();
  if (data.defined()) impl_->grad->device = data.device();
  impl_->grad->owner = impl_;
  impl_->data = std::move(data);
  impl_->requires_grad = requires_grad;
}

const Tensor& Variable::data() const {
  check(defined(), "[variable] use of an undefined variable");
  return impl_->data;
}

bool Variable::requires_grad() const { return impl_ && impl_->requires_grad; }
bool Variable::is_leaf() const { return impl_ && impl_->grad->node == nullptr; }

Tensor Variable::grad() const {
  if (!is_leaf())
    throw UsageError(
        str("[grad] only leaves keep a gradient; this variable ", defined() ? "was computed by an operation" : "is undefined"));
  check_is_here(*impl_->grad);
  return impl_->grad->grad_valid ? impl_->grad->grad : Tensor();
}

bool Variable::has_grad() const {
  if (!is_leaf()) return false;
  check_is_here(*impl_->grad);
  return impl_->grad->grad_valid;
}
void Variable::zero_grad() const { impl_->grad->grad_valid = false; }
Tensor Variable::grad_buffer() const { return impl_->grad->grad; }

void Variable::mark_grad_valid() const {
  check(impl_->grad->grad.defined(), "[mark_grad_valid] '", impl_->name, "' has no gradient buffer");
  impl_->grad->grad_valid = true;
}

void Variable::set_grad_buffer(Tensor buffer) const {
  check(!buffer.defined() || (buffer.shape() == shape() && buffer.dtype() == dtype() && buffer.is_contiguous()),
        "[set_grad_buffer] expected a contiguous ", data(), " for '", impl_->name, "', got ", buffer);
  impl_->grad->grad = std::move(buffer);
  impl_->grad->grad_valid = false;
}

Variable Variable::detach() const { return Variable(data()); }

Variable Variable::from_node(Tensor data, std::shared_ptr<Node> node) {
  Variable result(std::move(data));
  result.impl_->requires_grad = true;
  result.impl_->grad->node = std::move(node);
  return result;
}

void Variable::backward(const Tensor& seed) const {
  check(requires_grad(), "[backward] nothing here requires a gradient");
  check(seed.defined() || data().numel() == 1, "[backward] a variable of shape ", shape(), " needs a seed gradient of that shape");
  check(!seed.defined() || (seed.shape() == shape() && seed.dtype() == dtype() && seed.device() == device()),
        "[backward] expected a seed like the variable, ", data(), " on ", device(), ", got ", seed);
  NoGradGuard no_grad;

  const std::shared_ptr<State>& root = impl_->grad;
  auto uses = count_leaf_uses(root);
  const Tensor start = seed.defined() ? seed : Tensor::full(shape(), 1.0, dtype(), device());
  if (is_leaf()) {
    Edge(*this).add(start);
    run_hook(*root);
    return;
  }
  root->grad = start;
  root->grad_valid = root->grad_shared = true;
  run_nodes(root, 0, [&](State& leaf) {
    if (--uses[&leaf] == 0 && leaf.grad_valid) run_hook(leaf);
  });
}

void detail::backward_part(const Variable& root, const Tensor& gradient, uint64_t oldest) {
  const std::shared_ptr<State>& state = root.impl()->grad;
  state->grad = gradient;
  state->grad_valid = state->grad_shared = true;
  NoGradGuard no_grad;
  run_nodes(state, oldest, [](State&) {});
}

Parameter::Parameter(std::string name, Tensor data, bool requires_grad) : Variable(std::move(data), requires_grad) {
  impl_->name = std::move(name);
}

const std::string& Parameter::name() const { return impl_->name; }
void Parameter::set_name(std::string name) const { impl_->name = std::move(name); }
void Parameter::set_grad_hook(GradHook hook) const { impl_->grad->hook = std::move(hook); }

void Parameter::set_grad_source(GradSource provide, std::string elsewhere) const {
  impl_->grad->source = std::move(provide);
  impl_->grad->elsewhere = std::move(elsewhere);
}

void Parameter::set_data(Tensor data) const {
  impl_->grad->shape = data.shape();
  impl_->grad->dtype = data.dtype();
  impl_->grad->device = data.device();
  impl_->compute_copy = Tensor();
  impl_->data = std::move(data);
}

void Parameter::set_initializer(Initializer initializer) const { impl_->initializer = std::move(initializer); }

void Parameter::draw_initial(int64_t first, const Tensor& values) const {
  check(impl_->initializer != nullptr, "[init] nothing says how '", name(), "' starts: call initialize(seed) on the model first");
  check(first >= 0 && first + values.numel() <= data().numel() && values.dtype() == DType::f32 && values.is_contiguous(),
        "[init] expected contiguous f32 for elements within the ", data().numel(), " of '", name(), "', got ", values, " from element ",
        first);
  if (values.numel() > 0) impl_->initializer(first, values);
}

void Parameter::set_requires_grad(bool requires_grad) const { impl_->requires_grad = requires_grad; }

NoGradGuard::NoGradGuard() : previous_(std::exchange(t_grad_enabled, false)) {}
NoGradGuard::~NoGradGuard() { t_grad_enabled = previous_; }
EnableGradGuard::EnableGradGuard() : previous_(std::exchange(t_grad_enabled, true)) {}
EnableGradGuard::~EnableGradGuard() { t_grad_enabled = previous_; }
bool grad_enabled() { return t_grad_enabled; }

std::vector<Parameter> reachable_leaves(const Variable& root) {
  std::vector<Parameter> leaves;
  if (!root.requires_grad()) return leaves;
  std::unordered_set<State*> seen;
  std::vector<State*> todo{root.impl()->grad.get()};
  while (!todo.empty()) {
    State* current = todo.back();
    todo.pop_back();
    if (!seen.insert(current).second) continue;
    if (current->node) {
      for (const Edge& edge : current->node->edges())
        if (edge.needed()) todo.push_back(edge.target().get());
    } else if (const auto owner = current->owner.lock()) {
      leaves.push_back(detail::as_parameter(owner));
    }
  }
  return leaves;
}

}  // namespace lockstep
