// Decides which modules are units, and which parameters belong to which unit.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/module.h"

namespace lockstep::fsdp {

struct UnitPlan {
  nn::Module* module = nullptr;
  std::string name;  // the path of the module; "root" for the root
  // The parameters that it gathers. A parameter that several units use belongs to the innermost
  // unit around all of them, whose forward pass includes theirs.
  std::vector<Parameter> parameters = {};
};

// Makes a rule for Options::wrap from words. "blocks" is the default rule (an empty function).
// "none" makes the root the only unit. Anything else is a list of module paths such as
// "blocks.*, head", where `*` is any one name. Throws UsageError if a path matches no module
// below `root`.
std::function<bool(const nn::Module&)> wrap_rule(const std::string& words, const nn::Module& root);

// The root comes first, then the units in the order of registration. Units without parameters are
// left out (except for the root).
std::vector<UnitPlan> plan_units(nn::Module& root,
                                 const std::function<bool(const nn::Module&)>& wrap);

}  // namespace lockstep::fsdp
