// Hooks: where a unit's schedule meets its module's forward pass and the tape.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "core/nn/module.h"

namespace lockstep::fsdp {

// What happens around a unit's passes. The module keeps its hooks for good: once `alive` is gone they do nothing.
struct UnitHooks {
  std::weak_ptr<const void> alive;
  std::function<void()> before_forward;
  std::function<size_t(bool recorded)> after_forward;  // gives the use a number
  std::function<void(size_t use)> before_backward;     // before the first node of that use runs
  std::optional<DType> output = {};                    // the dtype in which the module's output goes on
};

void install(nn::Module& module, UnitHooks hooks);

}  // namespace lockstep::fsdp
