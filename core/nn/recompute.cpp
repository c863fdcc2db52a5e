#include "core/nn/recompute.h"

#include <optional>
#include <unordered_set>
#include <utility>

#include "core/autograd/node.h"
#include "core/nn/random.h"
#include "core/ops/precision.h"

namespace lockstep::nn {
namespace {

using Forward = std::function<Variable(const Variable&)>;
using State = detail::GradState;

// `values` whose gradient goes where that of another variable goes (null: nowhere).
Variable standing_in(const Tensor& values, const std::shared_ptr<State>& gradient) {
  Variable variable(values);
  if (!gradient) return variable;
  variable.impl()->requires_grad = true;
  variable.impl()->grad = gradient;
  return variable;
}

// What gradients flow into from the part of the graph below `output` whose nodes are `oldest` or younger.
std::vector<std::shared_ptr<State>> inputs_of(const Variable& output, uint64_t oldest) {
  std::vector<std::shared_ptr<State>> inputs, todo{output.impl()->grad};
  std::unordered_set<State*> seen{todo.front().get()};
  while (!todo.empty()) {
    const std::shared_ptr<State> current = std::move(todo.back());
    todo.pop_back();
    if (!current->node || current->node->sequence() < oldest) {
      inputs.push_back(current);
      continue;
    }
    for (const Edge& edge : current->node->edges())
      if (edge.needed() && seen.insert(edge.target().get()).second) todo.push_back(edge.target());
  }
  return inputs;
}

class RecomputeNode final : public Node {
 public:
  // `inputs`: all that the part sends gradients to.
  RecomputeNode(std::vector<Variable> inputs, const Variable& input, Forward forward)
      : Node("recompute", std::move(inputs)),
        values_(input.data()),
        gradient_(input.requires_grad() ? input.impl()->grad : nullptr),
        forward_(std::move(forward)),
        random_(RandomScope::place()),
        dtype_(ops::PrecisionScope::current()) {}

  void backward(const Tensor& gradient) override {
    const uint64_t oldest = Node::next_sequence();
    const Variable output = run();
    check(output.shape() == gradient.shape() && output.dtype() == gradient.dtype(), "[recompute] the forward pass gave ", gradient,
          " and, computed again, ", output.data(), "; it must compute the same each time");
    detail::backward_part(output, gradient, oldest);
  }

  void release() override {
    values_ = Tensor();
    gradient_ = nullptr;
    forward_ = nullptr;
  }

 private:
  Variable run() const {
    EnableGradGuard record;
    std::optional<RandomScope> random;
    if (random_) random.emplace(*random_);
    std::optional<ops::PrecisionScope> precision;
    if (ops::PrecisionScope::current() != dtype_) precision.emplace(dtype_);
    return forward_(standing_in(values_, gradient_));
  }

  Tensor values_;
  std::shared_ptr<State> gradient_;
  Forward forward_;
  std::optional<RandomKey> random_;
  DType dtype_;
};

}  // namespace

Variable recompute(const Variable& input, Forward forward) {
  if (!grad_enabled()) return forward(input);
  // Recorded and dropped: only the graph knows which parameters took part. While it runs it needs what backward will need again.
  const uint64_t oldest = Node::next_sequence();
  const Variable output = forward(input);
  if (!output.requires_grad() || output.impl()->grad->node == nullptr || output.impl()->grad->node->sequence() < oldest) return output;
  std::vector<Variable> inputs;
  for (const auto& state : inputs_of(output, oldest)) inputs.push_back(standing_in({}, state));
  return Variable::from_node(output.data(), std::make_shared<RecomputeNode>(std::move(inputs), input, std::move(forward)));
}

}  // namespace lockstep::nn
