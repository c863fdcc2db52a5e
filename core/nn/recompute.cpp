#include "core/nn/recompute.h"

#include <optional>
#include <unordered_set>
#include <utility>

#include "core/autograd/node.h"
#include "core/nn/random.h"
#include "core/ops/precision.h"

namespace lockstep::nn {
namespace {

using Variables = std::vector<Variable>;
using State = detail::GradState;

// A variable with `values` that sends its gradient to the given place (null: nowhere).
Variable standing_in(const Tensor& values, const std::shared_ptr<State>& gradient) {
  Variable variable(values);
  if (!gradient) return variable;
  variable.impl()->requires_grad = true;
  variable.impl()->grad = gradient;
  return variable;
}

// Whether a node with the sequence number `oldest` or a later one computed the value.
bool computed_since(const Variable& value, uint64_t oldest) {
  return value.requires_grad() && value.impl()->grad->node != nullptr &&
         value.impl()->grad->node->sequence() >= oldest;
}

// Returns where gradients leave the part of the graph below `outputs` whose nodes have sequence
// numbers from `oldest` on.
std::vector<std::shared_ptr<State>> inputs_of(const Variables& outputs, uint64_t oldest) {
  std::vector<std::shared_ptr<State>> inputs, todo;
  std::unordered_set<State*> seen;
  const auto visit = [&](const std::shared_ptr<State>& state) {
    if (seen.insert(state.get()).second) todo.push_back(state);
  };
  for (auto output = outputs.rbegin(); output != outputs.rend(); ++output)
    visit(output->impl()->grad);
  while (!todo.empty()) {
    const std::shared_ptr<State> current = std::move(todo.back());
    todo.pop_back();
    if (!current->node || current->node->sequence() < oldest) {
      inputs.push_back(current);
      continue;
    }
    for (const Edge& edge : current->node->edges())
      if (edge.needed()) visit(edge.target());
  }
  return inputs;
}

// While it lives, variables require gradients as they did when the inputs were logged.
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

// What a part keeps for one of its inputs.
struct KeptInput {
  explicit KeptInput(const Variable& input) {
    if (!input.defined()) return;
    defined = true;
    values = SavedTensor("recompute", input);
    if (input.requires_grad()) gradient = input.impl()->grad;
  }
  Variable again() const { return defined ? standing_in(values.get(), gradient) : Variable(); }

  bool defined = false;
  SavedTensor values;
  std::shared_ptr<State> gradient;
};

// A part of the model: everything that is needed to run it again and to differentiate it.
class Part {
 public:
  Part(const Variables& inputs, std::vector<detail::InputLog::Input> read, RecomputedAll forward)
      : inputs_(inputs.begin(), inputs.end()),
        read_(std::move(read)),
        forward_(std::move(forward)),
        random_(RandomScope::place()),
        dtype_(ops::PrecisionScope::current()) {}

  // gradients[i] belongs to the forward pass's output places[i]; it is undefined if none arrived.
  void differentiate(const std::vector<size_t>& places, const std::vector<Tensor>& gradients) {
    const uint64_t oldest = Node::next_sequence();
    const Variables outputs = run();
    detail::Roots roots;
    for (size_t i = 0; i < places.size(); ++i) {
      check(places[i] < outputs.size() && computed_since(outputs[places[i]], oldest),
            "[recompute] an output that the forward pass computed from parameters was not computed "
            "again the second time; it must compute the same each time");
      if (!gradients[i].defined()) continue;
      const Variable& output = outputs[places[i]];
      check(output.shape() == gradients[i].shape() && output.dtype() == gradients[i].dtype(),
            "[recompute] the forward pass gave ", gradients[i], " and, computed again, ",
            output.data(), "; it must compute the same each time");
      roots.emplace_back(output, gradients[i]);
    }
    detail::backward_part(roots, oldest);
  }

 private:
  Variables run() const {
    for (const auto& input : read_) input.check_unchanged();
    const AsLogged logged(read_);
    EnableGradGuard record;
    std::optional<RandomScope> random;
    if (random_) random.emplace(*random_);
    std::optional<ops::PrecisionScope> precision;
    if (ops::PrecisionScope::current() != dtype_) precision.emplace(dtype_);
    Variables inputs;
    for (const KeptInput& input : inputs_) inputs.push_back(input.again());
    return forward_(inputs);
  }

  std::vector<KeptInput> inputs_;
  std::vector<detail::InputLog::Input> read_;
  RecomputedAll forward_;
  std::optional<RandomKey> random_;
  DType dtype_;
};

// A part with one output that backward may reach.
class RecomputeNode final : public Node {
 public:
  // `inputs`: everything that receives gradients from the part. `place`: the index of the output
  // among forward's outputs.
  RecomputeNode(Variables inputs, size_t place, Part part)
      : Node("recompute", std::move(inputs)), place_(place), part_(std::move(part)) {}
  void backward(const Tensor& gradient) override { part_->differentiate({place_}, {gradient}); }
  void release() override { part_.reset(); }

 private:
  size_t place_;
  std::optional<Part> part_;
};

// A part with several outputs. Each output has a younger node that stores its gradient here, so
// this node runs after all gradients have arrived.
class RecomputeAllNode final : public Node {
 public:
  RecomputeAllNode(Variables inputs, std::vector<size_t> places, Part part)
      : Node("recompute", std::move(inputs)),
        places_(std::move(places)),
        gradients_(places_.size()),
        part_(std::move(part)) {}
  void backward(const Tensor&) override { part_->differentiate(places_, gradients_); }
  void release() override {
    part_.reset();
    gradients_.clear();
  }
  // `first`: whether this is the first gradient of this backward pass. Then it forgets what an
  // earlier pass that threw has left.
  void set_gradient(size_t i, const Tensor& gradient, bool first) {
    if (first) gradients_.assign(places_.size(), Tensor());
    gradients_[i] = gradient;
  }

 private:
  std::vector<size_t> places_;
  std::vector<Tensor> gradients_;
  std::optional<Part> part_;
};

// Tells the part's node that a gradient arrived, through one element whose value is not used.
Variable output_of(const std::shared_ptr<RecomputeAllNode>& part, const Variable& reached, size_t i,
                   const Tensor& values) {
  const auto leave = [part, i](const Tensor& gradient, const Node& node) {
    const Edge& edge = node.edge(0);
    part->set_gradient(i, gradient, !edge.target()->grad_valid);
    edge.add(Tensor::zeros({1}, DType::f32, edge.target()->device));
  };
  return record("recompute output", values, {reached}, leave);
}

}  // namespace

std::vector<Variable> recompute_all(const std::vector<Variable>& inputs, RecomputedAll forward) {
  check(forward != nullptr, "[recompute] expected a function, got an empty one");
  if (!grad_enabled()) return forward(inputs);
  // Run the part once with a graph and drop the graph, because only it shows which parameters took
  // part. This run needs as much memory as backward will need again.
  const uint64_t oldest = Node::next_sequence();
  std::vector<detail::InputLog::Input> read;
  Variables outputs = [&] {
    detail::InputLog log(oldest);
    Variables made = forward(inputs);
    read = log.take(made);
    return made;
  }();
  Variables computed;
  std::vector<size_t> places, same_as(outputs.size(), outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!computed_since(outputs[i], oldest)) continue;
    const auto& state = outputs[i].impl()->grad;
    for (same_as[i] = 0; same_as[i] < computed.size(); ++same_as[i])
      if (computed[same_as[i]].impl()->grad == state) break;
    if (same_as[i] < computed.size()) continue;
    computed.push_back(outputs[i]);
    places.push_back(i);
  }
  if (computed.empty()) return outputs;
  Variables gradients_to;
  for (const auto& state : inputs_of(computed, oldest))
    gradients_to.push_back(standing_in({}, state));
  Part part(inputs, std::move(read), std::move(forward));
  if (computed.size() == 1) {
    computed[0] = Variable::from_node(
        computed[0].data(),
        std::make_shared<RecomputeNode>(std::move(gradients_to), places[0], std::move(part)));
  } else {
    const auto node =
        std::make_shared<RecomputeAllNode>(std::move(gradients_to), places, std::move(part));
    const Variable reached =
        Variable::from_node(Tensor::zeros({1}, DType::f32, computed[0].device()), node);
    for (size_t i = 0; i < computed.size(); ++i)
      computed[i] = output_of(node, reached, i, computed[i].data());
  }
  for (size_t i = 0; i < outputs.size(); ++i)
    if (same_as[i] < outputs.size()) outputs[i] = computed[same_as[i]];
  return outputs;
}

Variable recompute(const Variable& input, std::function<Variable(const Variable&)> forward) {
  check(forward != nullptr, "[recompute] expected a function, got an empty one");
  return recompute_all({input}, [forward = std::move(forward)](const Variables& inputs) {
    return Variables{forward(inputs.front())};
  })[0];
}

}  // namespace lockstep::nn
