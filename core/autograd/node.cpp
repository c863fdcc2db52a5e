#include "core/autograd/node.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "core/device/kernels.h"

namespace lockstep {
namespace {

std::atomic<uint64_t> g_sequence{0};
thread_local detail::InputLog* t_log = nullptr;

constexpr const char* kBackward = "backward()";

void add_in_place(const Tensor& into, const Tensor& value) {
  const Kernels& k = kernels(into.device());
  const Queue& queue = current_queue(into.device());
  if (into.dtype() == DType::f16) {
    const StridedView sum{into.raw(), into.dtype(), into.shape(), into.strides()};
    if (into.numel() > 0)
      k.binary(queue, BinaryOp::add, sum, sum,
               {value.raw(), value.dtype(), value.shape(), value.strides()});
    return;
  }
  const Tensor dense = value.contiguous();
  check(is_floating(into.dtype()) && into.is_contiguous(),
        "[autograd] cannot add gradients of type ", into);
  k.axpby(queue, into.dtype(), into.numel(), 1.0f, dense.raw(), 1.0f, into.raw());
}

// set_data() may have changed the shape after the gradient got its memory.
void check_memory(const detail::GradState& t) {
  check(!t.grad.defined() || (t.grad.shape() == t.shape && t.grad.dtype() == t.dtype),
        "[autograd] the values are ", t.dtype, t.shape, ", but the memory for their gradient is ",
        t.grad, "; give it other memory with set_grad_buffer()");
}

// Makes memory for a gradient that has none.
void make_memory(detail::GradState& t) {
  if (t.source) {
    const Parameter::GradSource provide = t.source;  // a copy: it may replace itself
    provide();
    check(t.grad.defined(), "[autograd] a gradient arrived, but there is no memory for it. ",
          t.elsewhere);
    return check_memory(t);
  }
  MemoryScope scope(t.node == nullptr ? MemoryCategory::gradients : MemoryScope::current());
  t.grad = Tensor::empty(t.shape, t.dtype, t.device);
  t.grad_shared = false;
}

class FunctionNode final : public Node {
 public:
  FunctionNode(std::string_view op, std::vector<Variable> inputs, BackwardFn fn)
      : Node(op, std::move(inputs)), fn_(std::move(fn)) {}
  void backward(const Tensor& gradient) override { fn_(gradient, *this); }
  void release() override { fn_ = nullptr; }

 private:
  BackwardFn fn_;
};

}  // namespace

Edge::Edge(const Variable& input) {
  if (input.defined() && input.requires_grad()) target_ = input.impl()->grad;
}

void Edge::add(const Tensor& gradient) const {
  if (!needed()) return;
  detail::GradState& t = *target_;
  check(gradient.shape() == t.shape && gradient.dtype() == t.dtype,
        "[autograd] expected a gradient ", t.dtype, t.shape, ", got ", gradient);
  check_memory(t);
  if (t.node == nullptr) {  // a leaf: its memory may be a view of others, so always write there
    ++t.grad_changes;
    if (!t.grad.defined()) make_memory(t);
    t.grad.mark_changed(kBackward);
    if (t.grad_valid)
      add_in_place(t.grad, gradient);
    else
      t.grad.copy_(gradient);
  } else if (!t.grad_valid) {
    t.grad = gradient;
    t.grad_shared = true;
  } else {
    if (t.grad_shared && t.grad.storage().use_count() > 1) t.grad = t.grad.clone();
    t.grad_shared = false;
    if (!t.grad.is_contiguous()) t.grad = t.grad.contiguous();
    add_in_place(t.grad, gradient);
  }
  t.grad_valid = true;
}

void Edge::write(const std::function<void(const Tensor& dst, bool accumulate)>& write) const {
  if (!needed()) return;
  detail::GradState& t = *target_;
  check_memory(t);
  const bool leaf = t.node == nullptr;
  if (!leaf && t.grad_valid && t.grad_shared) {
    // The gradient came from add(). Take its memory over if nothing else uses it.
    if (t.grad.storage().use_count() > 1 || !t.grad.is_contiguous()) t.grad = t.grad.clone();
    t.grad_shared = false;
  }
  if (!t.grad.defined()) make_memory(t);
  if (leaf) {
    ++t.grad_changes;
    t.grad.mark_changed(kBackward);
  }
  write(t.grad, t.grad_valid);
  t.grad_valid = true;
}

void Edge::write_over(
    const Tensor& gradient,
    const std::function<void(const Tensor& dst, bool accumulate)>& write_to) const {
  if (!needed()) return;
  detail::GradState& t = *target_;
  const bool free = t.node != nullptr && !t.grad_valid && gradient.storage().use_count() == 1;
  if (!free || gradient.shape() != t.shape || gradient.dtype() != t.dtype ||
      !gradient.is_contiguous())
    return write(write_to);
  write_to(gradient, false);
  add(gradient);
}

Node::Node(std::string_view op, std::vector<Variable> inputs)
    : op_(op), sequence_(g_sequence.fetch_add(1, std::memory_order_relaxed)) {
  edges_.reserve(inputs.size());
  for (const Variable& input : inputs) edges_.emplace_back(input);
}

Node::~Node() {
  // A node may be the last owner of a long chain of nodes. Free the chain in a loop, because
  // recursion would need a stack as deep as the chain.
  std::vector<Edge> pending = std::move(edges_);
  while (!pending.empty()) {
    const std::shared_ptr<detail::GradState> state = pending.back().target();
    pending.pop_back();
    if (!state || state.use_count() > 1 || !state->node || state->node.use_count() > 1) continue;
    for (Edge& edge : state->node->edges_) pending.push_back(std::move(edge));
    state->node->edges_.clear();
  }
}

uint64_t Node::next_sequence() { return g_sequence.load(std::memory_order_relaxed); }

void Node::run_pre_hooks() const {
  for (size_t i = pre_hooks_.size(); i-- > 0;) pre_hooks_[i]();
}

void Node::set_recipe(const Tensor& output, std::function<Tensor()> again) {
  again_ = std::move(again);
  output_ = output.storage();
  output_version_ = output.storage()->version();
}

std::function<Tensor()> Node::recipe_for(const Tensor& output) const {
  if (!again_ || output.storage() != output_.lock() ||
      output.storage()->version() != output_version_)
    return nullptr;
  return again_;
}

void Node::mark_released() {
  released_ = true;
  again_ = nullptr;
  edges_.clear();
  pre_hooks_.clear();
  release();
}

bool detail::must_record(const std::vector<Variable>& inputs) {
  if (!grad_enabled()) return false;
  for (const Variable& input : inputs)
    if (input.defined() && input.requires_grad()) return true;
  return false;
}

detail::InputLog::InputLog(uint64_t oldest) : oldest_(oldest), outer_(std::exchange(t_log, this)) {}
detail::InputLog::~InputLog() { t_log = outer_; }

void detail::InputLog::note(std::string_view op, const std::vector<Variable>& inputs) {
  for (InputLog* log = t_log; log; log = log->outer_)
    for (const Variable& input : inputs)
      if (input.defined() && input.data().defined()) log->add(op, input);
}

void detail::InputLog::add(std::string_view op, const Variable& input) {
  const auto& impl = input.impl();
  if (impl->grad->node && impl->grad->node->sequence() >= oldest_) return;
  const auto [at, added] = latest_.try_emplace(impl.get(), inputs_.size());
  if (!added && !inputs_[at->second].variable.expired()) return;
  at->second = inputs_.size();  // an earlier variable, now gone, had the same address
  inputs_.push_back(
      {impl, input.requires_grad(), input.dtype(), input.shape(), ValueMark(op, input)});
}

void detail::InputLog::Input::check_unchanged() const {
  if (const auto alive = variable.lock())
    values.check_unchanged(*alive);
  else
    values.check_unchanged(dtype, shape);
}

std::vector<detail::InputLog::Input> detail::InputLog::take(const std::vector<Variable>& outputs) {
  const auto gone = [&](const Input& input) {
    const auto memory = input.values.storage();
    return input.variable.expired() &&
           (!memory || std::any_of(outputs.begin(), outputs.end(), [&](const Variable& output) {
             return output.defined() && output.data().storage() == memory;
           }));
  };
  std::erase_if(inputs_, gone);
  latest_.clear();
  return std::exchange(inputs_, {});
}

Variable record(std::string_view op, Tensor result, std::vector<Variable> inputs,
                BackwardFn backward) {
  detail::InputLog::note(op, inputs);
  if (!detail::must_record(inputs)) return Variable(std::move(result));
  return Variable::from_node(std::move(result), std::make_shared<FunctionNode>(
                                                    op, std::move(inputs), std::move(backward)));
}

Variable recomputable(Variable result, std::function<Tensor()> again) {
  if (const auto& node = result.impl()->grad->node)
    node->set_recipe(result.data(), std::move(again));
  return result;
}

}  // namespace lockstep
