// PlannedUnit: what is known of a unit before it is sharded: layouts and dtypes, for the plans of
// memory and traffic.
#pragma once

#include <vector>

#include "fsdp/layout.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

struct PlannedSection {
  FlatLayout layout;
  DType dtype, wire;
  bool trained;
};
using PlannedUnit = std::vector<PlannedSection>;

// The root comes first. `columns`: number of ranks that share one copy of the model.
std::vector<PlannedUnit> planned_units(nn::Module& module, int columns, const Options& options);

}  // namespace lockstep::fsdp
