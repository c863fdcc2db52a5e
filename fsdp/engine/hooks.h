// Hooks: where a unit's schedule meets its module's forward pass and the tape.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/nn/module.h"
#include "fsdp/schedule.h"

namespace lockstep::fsdp {

// What happens around a unit's passes. The module keeps its hooks for good: once `alive` is gone
// they throw UsageError.
struct UnitHooks {
  std::string unit;  // its name
  std::weak_ptr<const void> alive;
  std::function<void()> before_forward;
  std::function<std::shared_ptr<const Use>(bool recorded)> after_forward;
  // Before the node of one of its outputs runs: of each that backward comes to.
  std::function<void(const std::shared_ptr<const Use>& use)> before_backward;
  std::optional<DType> output = {};  // the dtype in which the module's floating outputs go on
};

void install(nn::Module& module, UnitHooks hooks);

}  // namespace lockstep::fsdp
