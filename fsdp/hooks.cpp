#include "fsdp/hooks.h"

#include "core/autograd/node.h"
#include "core/ops/functions.h"

namespace lockstep::fsdp {
namespace {

void check_alive(const UnitHooks& hooks) {
  check(!hooks.alive.expired(), "[fsdp] unit '", hooks.unit, "': ", kGone);
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
    // The output's node is as a rule the first of the unit's that backward runs. No node is added:
    // that would change the order in which gradients are added up where others use the same values.
    const auto& node = output.impl()->grad->node;
    const bool recorded = grad_enabled() && output.requires_grad() && node != nullptr;
    std::shared_ptr<const Use> use = hooks->after_forward(recorded);
    if (recorded)
      node->add_pre_hook([use = std::move(use), hooks] {
        check_alive(*hooks);
        hooks->before_backward(use);
      });
    return output;
  });
}

}  // namespace lockstep::fsdp
