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

// What gradients flow into from the part of the graph below `output` whose nodes are `oldest` or
// younger.
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

// While it lives, variables require gradients where they did when the log was taken.
class AsLogged {
 public:
  explicit AsLogged(const std::vector<detail::InputLog::Input>& inputs) {
    for (const auto& input : inputs)
      if (auto variable = input.variable.lock();
          variable && !variable->grad->node && variable->requires_grad != input.requires_grad) {
        variable->requires_grad = input.requires_grad;
        switched_.push_back(std::move(variable));
      }
  }
  ~AsLogged() {
    for (const auto& variable : switched_) variable->requires_grad = !variable->requires_grad;
  }
  AsLogged(const AsLogged&) = delete;
  AsLogged& operator=(const AsLogged&) = delete;

 private:
  std::vector<std::shared_ptr<detail::VariableImpl>> switched_;
};

class RecomputeNode final : public Node {
 public:
  // `inputs`: all that the part sends gradients to. `read`: all values that it reads.
  RecomputeNode(std::vector<Variable> inputs, const Variable& input,
                std::vector<detail::InputLog::Input> read, Forward forward)
      : Node("recompute", std::move(inputs)),
        values_("recompute", input),
        read_(std::move(read)),
        gradient_(input.requires_grad() ? input.impl()->grad : nullptr),
        forward_(std::move(forward)),
        random_(RandomScope::place()),
        dtype_(ops::PrecisionScope::current()) {}

  void backward(const Tensor& gradient) override {
    const uint64_t oldest = Node::next_sequence();
    const Variable output = run();
    check(output.requires_grad() && output.impl()->grad->node != nullptr &&
              output.impl()->grad->node->sequence() >= oldest,
          "[recompute] what the forward pass computed from parameters, it gave back without "
          "computing the second time; it must compute "
          "the same each time");
    check(output.shape() == gradient.shape() && output.dtype() == gradient.dtype(),
          "[recompute] the forward pass gave ", gradient, " and, computed again, ", output.data(),
          "; it must compute the same each time");
    detail::backward_part(output, gradient, oldest);
  }

  void release() override {
    values_ = SavedTensor();
    read_.clear();
    gradient_ = nullptr;
    forward_ = nullptr;
  }

 private:
  Variable run() const {
    for (const auto& input : read_) input.check_unchanged();
    const AsLogged logged(read_);
    EnableGradGuard record;
    std::optional<RandomScope> random;
    if (random_) random.emplace(*random_);
    std::optional<ops::PrecisionScope> precision;
    if (ops::PrecisionScope::current() != dtype_) precision.emplace(dtype_);
    return forward_(standing_in(values_.get(), gradient_));
  }

  SavedTensor values_;
  std::vector<detail::InputLog::Input> read_;
  std::shared_ptr<State> gradient_;
  Forward forward_;
  std::optional<RandomKey> random_;
  DType dtype_;
};

}  // namespace

Variable recompute(const Variable& input, Forward forward) {
  check(forward != nullptr, "[recompute] expected a function, got an empty one");
  if (!grad_enabled()) return forward(input);
  // Recorded and dropped: only the graph knows which parameters took part. While it runs it needs
  // what backward will need again.
  const uint64_t oldest = Node::next_sequence();
  std::vector<detail::InputLog::Input> read;
  const Variable output = [&] {
    detail::InputLog log(oldest);
    const Variable made = forward(input);
    if (made.defined()) read = log.take(made);
    return made;
  }();
  if (!output.requires_grad() || output.impl()->grad->node == nullptr ||
      output.impl()->grad->node->sequence() < oldest)
    return output;
  std::vector<Variable> inputs;
  for (const auto& state : inputs_of(output, oldest)) inputs.push_back(standing_in({}, state));
  return Variable::from_node(
      output.data(), std::make_shared<RecomputeNode>(std::move(inputs), input, std::move(read),
                                                     std::move(forward)));
}

}  // namespace lockstep::nn
