#include "fsdp/hooks.h"

#include "core/autograd/node.h"
#include "core/ops/functions.h"

namespace lockstep::fsdp {
namespace {

void check_alive(const UnitHooks& hooks) { check(!hooks.alive.expired(), "[fsdp] unit '", hooks.unit, "': ", kGone); }

// The identity, but for what happens when backward comes by: it is the latest node of the unit's forward pass, so it runs first.
Variable mark(const Variable& output, std::shared_ptr<const Use> use, const std::shared_ptr<const UnitHooks>& hooks) {
  return record("fsdp_unit", output.data(), {output}, [use = std::move(use), hooks](const Tensor& gradient, const Node& node) {
    check_alive(*hooks);
    hooks->before_backward(use);
    node.edge(0).add(gradient);
  });
}

}  // namespace

void install(nn::Module& module, UnitHooks unit_hooks) {
  const auto hooks = std::make_shared<const UnitHooks>(std::move(unit_hooks));
  module.add_forward_pre_hook([hooks](nn::Module&, const Variable&) {
    check_alive(*hooks);
    hooks->before_forward();
  });
  module.add_forward_post_hook([hooks](nn::Module&, const Variable& made) {
    check_alive(*hooks);
    const Variable output = hooks->output ? ops::cast(made, *hooks->output) : made;
    const bool recorded = grad_enabled() && output.requires_grad();
    std::shared_ptr<const Use> use = hooks->after_forward(recorded);
    return recorded ? mark(output, std::move(use), hooks) : output;
  });
}

}  // namespace lockstep::fsdp
