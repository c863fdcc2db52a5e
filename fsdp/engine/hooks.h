// Hooks: connect a unit's schedule with its module's forward pass and the autograd graph.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/nn/module.h"
#include "fsdp/schedule.h"

namespace lockstep::fsdp {

// Callbacks around a unit's passes. The module keeps its hooks forever; once `alive` has expired,
// they throw UsageError.
struct UnitHooks {
  std::string unit;  // the name of the unit
  std::weak_ptr<const void> alive;
  std::function<void()> before_forward;
  std::function<std::shared_ptr<const Use>(bool recorded)> after_forward;
  // Runs before the node of an output runs, for each output that backward visits.
  std::function<void(const std::shared_ptr<const Use>& use)> before_backward;
  std::optional<DType> output = {};  // the dtype of the module's floating outputs
};

void install(nn::Module& module, UnitHooks hooks);

}  // namespace lockstep::fsdp
