#include "fsdp/hooks.h"

#include "core/autograd/node.h"
#include "core/ops/functions.h"

namespace lockstep::fsdp {
namespace {

// The identity, but for what happens when backward comes by: it is the latest node of the unit's forward pass, so it runs first.
Variable mark(const Variable& output, size_t use, const std::shared_ptr<const UnitHooks>& hooks) {
  return record("fsdp_unit", output.data(), {output}, [use, hooks](const Tensor& gradient, const Node& node) {
    if (!hooks->alive.expired()) hooks->before_backward(use);
    node.edge(0).add(gradient);
  });
}

}  // namespace

void install(nn::Module& module, UnitHooks unit_hooks) {
  const auto hooks = std::make_shared<const UnitHooks>(std::move(unit_hooks));
  module.add_forward_pre_hook([hooks](nn::Module&, const Variable&) {
    if (!hooks->alive.expired()) hooks->before_forward();
  });
  module.add_forward_post_hook([hooks](nn::Module&, const Variable& made) {
    if (hooks->alive.expired()) return made;
    const Variable output = hooks->output ? ops::cast(made, *hooks->output) : made;
    const bool recorded = grad_enabled() && output.requires_grad();
    const size_t use = hooks->after_forward(recorded);
    return recorded ? mark(output, use, hooks) : output;
  });
}

}  // namespace lockstep::fsdp
