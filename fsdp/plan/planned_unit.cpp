#include "fsdp/plan/planned_unit.h"

namespace lockstep::fsdp {
namespace {

PlannedUnit planned(const UnitPlan& unit, int columns, const Options& options) {
  PlannedUnit sections;
  for (const SectionPlan& section : plan_sections(unit, columns, options)) {
    std::vector<int64_t> numels;
    for (const Parameter& p : section.parameters) numels.push_back(p.data().numel());
    const Parameter& first = section.parameters.front();
    sections.push_back({FlatLayout(std::move(numels), columns), first.dtype(), section.wire,
                        first.requires_grad()});
  }
  return sections;
}

}  // namespace

std::vector<PlannedUnit> planned_units(nn::Module& module, int columns, const Options& options) {
  std::vector<PlannedUnit> units;
  for (const UnitPlan& unit : plan_units(module, options.wrap))
    units.push_back(planned(unit, columns, options));
  return units;
}

}  // namespace lockstep::fsdp
