// Which modules are units, and which parameters belong to which unit.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/module.h"

namespace lockstep::fsdp {

struct UnitPlan {
  nn::Module* module = nullptr;
  std::string name;  // the module's path; "root" for the root
  // What it gathers. A parameter that several units use belongs to the innermost unit around all of
  // them, whose forward pass spans theirs.
  std::vector<Parameter> parameters = {};
};

// A rule for Options::wrap from words: "blocks" is the default one (an empty function), "none"
// makes the root the only unit, and anything else is a list of module paths such as "blocks.*,
// head", where `*` is any one name. Throws UsageError where a path is none of the modules below
// `root`.
std::function<bool(const nn::Module&)> wrap_rule(const std::string& words, const nn::Module& root);

// The root first, then units in the order of registration; units without parameters are left out
// (but for the root).
std::vector<UnitPlan> plan_units(nn::Module& root,
                                 const std::function<bool(const nn::Module&)>& wrap);

}  // namespace lockstep::fsdp
