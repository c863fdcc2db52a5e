#include "fsdp/engine/hooks.h"

#include <algorithm>
#include <vector>

#include "core/autograd/node.h"
#include "core/ops/functions.h"

namespace lockstep::fsdp {
namespace {

void check_alive(const UnitHooks& hooks) {
  check(!hooks.alive.expired(), "[fsdp] unit '", hooks.unit, "': ", kGone);
}

void convert(nn::Variables& outputs, DType dtype) {
  for (Variable& output : outputs)
    if (output.defined() && is_floating(output.dtype())) output = ops::cast(output, dtype);
}

// Returns the nodes that made the outputs, each once; undefined outputs and constants have
// none. Backward normally runs one of them before any other node of the unit. No extra node is
// added: it would change the order in which gradients are summed where others use the same
// values.
std::vector<std::shared_ptr<Node>> nodes_of(const nn::Variables& outputs) {
  std::vector<std::shared_ptr<Node>> nodes;
  if (!grad_enabled()) return nodes;
  for (const Variable& output : outputs) {
    if (!output.requires_grad()) continue;
    const auto& node = output.impl()->grad->node;
    if (node && std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
  }
  return nodes;
}

}  // namespace

void install(nn::Module& module, UnitHooks unit_hooks) {
  const auto hooks = std::make_shared<const UnitHooks>(std::move(unit_hooks));
  module.add_forward_pre_hook([hooks](nn::Module&, nn::Variables&) {
    check_alive(*hooks);
    hooks->before_forward();
  });
  module.add_forward_post_hook([hooks](nn::Module&, const nn::Variables&, nn::Variables& outputs) {
    check_alive(*hooks);
    if (hooks->output) convert(outputs, *hooks->output);
    const auto nodes = nodes_of(outputs);
    const std::shared_ptr<const Use> use = hooks->after_forward(!nodes.empty());
    for (const auto& node : nodes)
      node->add_pre_hook([use, hooks] {
        check_alive(*hooks);
        hooks->before_backward(use);
      });
  });
}

}  // namespace lockstep::fsdp
