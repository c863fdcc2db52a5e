#include "core/autograd/variable.h"

#include <queue>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/autograd/node.h"
#include "core/trace/trace.h"

namespace lockstep {
namespace {

thread_local bool t_grad_enabled = true;

using State = detail::GradState;

// The youngest node first, so that a node runs only after every consumer of its output.
struct LaterFirst {
  bool operator()(const std::shared_ptr<State>& a, const std::shared_ptr<State>& b) const {
    return a->node->sequence() < b->node->sequence();
  }
};

// A leaf that a backward() reaches.
struct Leaf {
  // Number of recorded uses whose gradients are still missing. At 0 the gradient is final.
  int uses = 0;
  // The leaf's state before this backward().
  std::weak_ptr<State> state;
  bool had_gradient = false;
  uint64_t changes = 0;
};
using Leaves = std::unordered_map<State*, Leaf>;

void count_use(Leaves& leaves, const std::shared_ptr<State>& state) {
  Leaf& leaf = leaves[state.get()];
  if (leaf.uses++ == 0) leaf = {1, state, state->grad_valid, state->grad_changes};
}

// Restores leaves after a backward() that threw, and marks those that cannot be restored.
void put_back(const Leaves& leaves) {
  for (const auto& [key, leaf] : leaves) {
    const auto state = leaf.state.lock();
    if (!state || state->grad_changes == leaf.changes) continue;
    if (leaf.had_gradient)
      state->grad_incomplete = true;
    else
      state->grad_valid = false;
  }
}

void forget_gradient(State& computed) {
  computed.grad = Tensor();
  computed.grad_valid = computed.grad_shared = false;
}

Leaves find_leaves(const std::shared_ptr<State>& root) {
  Leaves leaves;
  if (!root->node) count_use(leaves, root);
  std::unordered_set<State*> seen{root.get()};
  std::vector<State*> todo{root.get()};
  while (!todo.empty()) {
    State* current = todo.back();
    todo.pop_back();
    if (!current->node) continue;
    check(!current->node->released(), "[backward] the graph of '", current->node->op(),
          "' was already used by an earlier backward(), ",
          "which frees it as it runs; run the forward pass again before a second backward()");
    for (const Edge& edge : current->node->edges()) {
      if (!edge.needed()) continue;
      State* target = edge.target().get();
      if (!target->node) count_use(leaves, edge.target());
      if (seen.insert(target).second) todo.push_back(target);
    }
  }
  return leaves;
}

// Named by the operation, which is a literal.
constexpr trace::Kind kBackward{"backward", "backward"};

struct Ready {
  std::priority_queue<std::shared_ptr<State>, std::vector<std::shared_ptr<State>>, LaterFirst>
      queue;
  std::unordered_set<State*> queued;
  void push(const std::shared_ptr<State>& state) {
    if (queued.insert(state.get()).second) queue.push(state);
  }
  std::shared_ptr<State> pop() {
    std::shared_ptr<State> latest = queue.top();
    queue.pop();
    return latest;
  }
};

// After an exception in `node`: forgets what it and its consumers sent to other nodes, so that a
// later backward() does not add to it.
void forget_under_way(const Node& node, Ready& ready) {
  while (!ready.queue.empty()) forget_gradient(*ready.pop());
  for (const Edge& edge : node.edges())
    if (edge.needed() && edge.target()->node) forget_gradient(*edge.target());
}

template <typename F>
void run_node(State& current, uint64_t oldest, Ready& ready, const F& used) {
  Node& node = *current.node;
  Tensor gradient = std::exchange(current.grad, Tensor());
  // A node without a gradient still counts the uses of its leaves, because a leaf's gradient must
  // become final.
  if (std::exchange(current.grad_valid, false)) {
    if (!gradient.is_contiguous()) gradient = gradient.contiguous();
    node.run_pre_hooks();
    const trace::Span span(kBackward, [&] { return trace::About{.name = node.op().data()}; });
    node.backward(gradient);
  }
  gradient = Tensor();
  for (const Edge& edge : node.edges()) {
    if (!edge.needed()) continue;
    const std::shared_ptr<State>& target = edge.target();
    if (!target->node)
      used(*target);
    else if (target->node->sequence() >= oldest)
      ready.push(target);
  }
  node.mark_released();
}

// Runs the nodes that were pushed to `ready`, with their gradients set, and the nodes below. Calls
// used(leaf) for each edge into a leaf once it is served. Nodes older than `oldest` do not run;
// their gradients stay there.
template <typename F>
void run_nodes(Ready& ready, uint64_t oldest, const F& used) {
  while (!ready.queue.empty()) {
    const std::shared_ptr<State> current = ready.pop();
    const std::shared_ptr<Node> node = current->node;
    try {
      run_node(*current, oldest, ready, used);
    } catch (...) {
      forget_under_way(*node, ready);
      throw;
    }
  }
}

void check_is_here(const State& leaf) {
  if (leaf.source && !leaf.grad.defined()) throw UsageError(leaf.elsewhere);
}

void run_hooks(const State& leaf) {
  const auto owner = leaf.owner.lock();
  if (!owner || (leaf.hooks.empty() && leaf.takers.empty())) return;
  const Parameter parameter = detail::as_parameter(owner);
  const auto run = [&](const Parameter::GradHook& hook) { hook(parameter); };
  leaf.hooks.for_each(run);
  leaf.takers.for_newest(run);
}

}  // namespace

Parameter detail::as_parameter(std::shared_ptr<VariableImpl> impl) {
  return Parameter(std::move(impl));
}

Variable::Variable(Tensor data, bool requires_grad)
    : impl_(std::make_shared<detail::VariableImpl>()) {
  check(!requires_grad || is_floating(data.dtype()),
        "[variable] only floating-point values can require a gradient, got ", data);
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

detail::GradState& Variable::leaf_state(std::string_view call) const {
  if (!is_leaf())
    throw UsageError(str("[", call, "] only leaves keep a gradient; this variable ",
                         defined() ? "was computed by an operation" : "is undefined"));
  return *impl_->grad;
}

Tensor Variable::grad() const {
  const State& leaf = leaf_state("grad");
  check_is_here(leaf);
  if (!leaf.grad_valid) return {};
  check(!leaf.grad_incomplete, "[grad] the gradient of '", impl_->name, "' ", leaf.dtype,
        leaf.shape,
        " is incomplete: a backward() that failed added a part of another one to it; call "
        "zero_grad() and do the step again");
  return leaf.grad;
}

bool Variable::has_grad() const {
  if (!is_leaf()) return false;
  check_is_here(*impl_->grad);
  return impl_->grad->grad_valid;
}
void Variable::zero_grad() const {
  State& leaf = leaf_state("zero_grad");
  leaf.grad_valid = leaf.grad_incomplete = false;
}
Tensor Variable::grad_buffer() const { return leaf_state("grad_buffer").grad; }

void Variable::mark_grad_valid() const {
  State& leaf = leaf_state("mark_grad_valid");
  check(leaf.grad.defined(), "[mark_grad_valid] '", impl_->name, "' has no gradient buffer");
  leaf.grad_valid = true;
  leaf.grad_incomplete = false;
}

void Variable::set_grad_buffer(Tensor buffer) const {
  State& leaf = leaf_state("set_grad_buffer");
  check(!buffer.defined() || (buffer.shape() == shape() && buffer.dtype() == dtype() &&
                              buffer.device() == device() && buffer.is_contiguous()),
        "[set_grad_buffer] expected a contiguous ", data(), " for '", impl_->name, "', got ",
        buffer);
  check(!buffer.defined() || buffer.numel() == 0 || buffer.storage() != data().storage() ||
            (buffer.raw() != data().raw() && !buffer.overlaps(data())),
        "[set_grad_buffer] expected other memory than that of the values of '", impl_->name, "'");
  leaf.grad = std::move(buffer);
  leaf.grad_valid = leaf.grad_incomplete = false;
}

Variable Variable::detach() const { return Variable(data()); }

Variable Variable::from_node(Tensor data, std::shared_ptr<Node> node) {
  check(node != nullptr, "[variable] expected the node that computed ", data, ", got none");
  Variable result(std::move(data));
  result.impl_->requires_grad = true;
  result.impl_->grad->node = std::move(node);
  return result;
}

void Variable::backward(const Tensor& seed) const {
  check(requires_grad(), "[backward] nothing here requires a gradient");
  check(seed.defined() || data().numel() == 1, "[backward] a variable of shape ", shape(),
        " needs a seed gradient of that shape");
  check(!seed.defined() ||
            (seed.shape() == shape() && seed.dtype() == dtype() && seed.device() == device()),
        "[backward] expected a seed like the variable, ", data(), " on ", device(), ", got ", seed);
  NoGradGuard no_grad;

  const std::shared_ptr<State>& root = impl_->grad;
  Leaves leaves = find_leaves(root);
  const Tensor start = seed.defined() ? seed : Tensor::full(shape(), 1.0, dtype(), device());
  const auto used = [&](State& leaf) {
    if (--leaves[&leaf].uses == 0 && leaf.grad_valid) run_hooks(leaf);
  };
  try {
    if (is_leaf()) {
      Edge(*this).add(start);
      used(*root);
      return;
    }
    root->grad = start;
    root->grad_valid = root->grad_shared = true;
    Ready ready;
    ready.push(root);
    run_nodes(ready, 0, used);
  } catch (...) {
    put_back(leaves);
    throw;
  }
}

void detail::backward_part(const Roots& roots, uint64_t oldest) {
  Ready ready;
  for (const auto& [root, gradient] : roots) {
    const std::shared_ptr<State>& state = root.impl()->grad;
    state->grad = gradient;
    state->grad_valid = state->grad_shared = true;
    ready.push(state);
  }
  NoGradGuard no_grad;
  run_nodes(ready, oldest, [](State&) {});
}

Parameter::Parameter(std::string name, Tensor data, bool requires_grad)
    : Variable(std::move(data), requires_grad) {
  check(impl_->data.defined(), "[parameter] expected values for '", name,
        "', got an undefined tensor");
  impl_->name = std::move(name);
}

detail::VariableImpl& Parameter::state(std::string_view call) const {
  check(defined(), "[", call, "] use of an undefined parameter");
  return *impl_;
}

const std::string& Parameter::name() const { return state("name").name; }
void Parameter::set_name(std::string name) const { state("set_name").name = std::move(name); }

HookHandle Parameter::add_grad_hook(GradHook hook) const {
  detail::VariableImpl& variable = state("add_grad_hook");
  check(hook != nullptr, "[add_grad_hook] expected a hook for '", variable.name,
        "', got an empty function");
  return variable.grad->hooks.add(std::move(hook));
}

HookHandle Parameter::add_grad_taker(GradHook taker) const {
  detail::VariableImpl& variable = state("add_grad_taker");
  check(taker != nullptr, "[add_grad_taker] expected a taker for '", variable.name,
        "', got an empty function");
  return variable.grad->takers.add(std::move(taker));
}

bool Parameter::is_taken_by(const HookHandle& taker) const {
  return state("is_taken_by").grad->takers.is_newest(taker);
}

void Parameter::set_grad_source(GradSource provide, std::string elsewhere) const {
  state("set_grad_source").grad->source = std::move(provide);
  impl_->grad->elsewhere = std::move(elsewhere);
}

void Parameter::set_data(Tensor data) const {
  state("set_data");
  check(data.defined() && (!impl_->requires_grad || is_floating(data.dtype())),
        "[set_data] expected values for '", name(), "', ", impl_->data, " so far, got ", data);
  impl_->grad->shape = data.shape();
  impl_->grad->dtype = data.dtype();
  impl_->grad->device = data.device();
  impl_->compute_copy = Tensor();
  ++impl_->replaced;
  impl_->data = std::move(data);
}

void Parameter::set_initializer(Initializer initializer) const {
  state("set_initializer").initializer = std::move(initializer);
}

void Parameter::draw_initial(int64_t first, const Tensor& values) const {
  check(state("draw_initial").initializer != nullptr, "[init] nothing says how '", name(),
        "' starts: call initialize(seed) on the model first");
  check(first >= 0 && values.numel() <= data().numel() &&
            first <= data().numel() - values.numel() && values.defined() &&
            values.dtype() == DType::f32 && values.is_contiguous(),
        "[init] expected contiguous f32 for elements within the ", data().numel(), " of '", name(),
        "', got ", values, " from element ", first);
  if (values.numel() == 0) return;
  values.mark_changed("draw_initial");
  impl_->initializer(first, values);
}

void Parameter::set_requires_grad(bool requires_grad) const {
  detail::VariableImpl& variable = state("set_requires_grad");
  check(!requires_grad || is_floating(variable.data.dtype()), "[set_requires_grad] '",
        variable.name, "' is ", variable.data,
        ", but only floating-point values can require a gradient");
  variable.requires_grad = requires_grad;
}

void Parameter::set_slice_of(const ShardSpec& part) const {
  check(part.length() == data().numel(), "[set_slice_of] '", name(), "' is ", data(),
        ", which cannot be ", part);
  state("set_slice_of").slice = std::make_unique<ShardSpec>(part);
}

bool Parameter::is_slice() const { return state("is_slice").slice != nullptr; }
ShardSpec Parameter::slice() const {
  return is_slice() ? *impl_->slice : ShardSpec::whole(shape());
}

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
