#include "fsdp/plan/traffic_plan.h"

#include <algorithm>
#include <deque>
#include <functional>

#include "fsdp/plan/planned_unit.h"

namespace lockstep::fsdp {
namespace {

// Calls gather(unit, times) for each gather of a step, like Schedule. All passes use the units in
// the same order. So from the second on, they begin with the same units present and are equal.
void for_each_gather(size_t units, int64_t passes, const Options& options,
                     const std::function<void(size_t unit, int64_t times)>& gather) {
  gather(0, 1);  // the root stays gathered for the whole step
  const bool bounded = options.reshard == Reshard::after_forward;
  std::deque<size_t> whole;  // the least recently used unit comes first
  const auto use = [&](size_t unit, int64_t times) {
    const auto here = std::find(whole.begin(), whole.end(), unit);
    if (here != whole.end())
      whole.erase(here);
    else
      gather(unit, times);
    whole.push_back(unit);
    if (bounded && whole.size() > static_cast<size_t>(options.units_in_flight)) whole.pop_front();
  };
  for (const int64_t times : {std::min<int64_t>(passes, 1), passes - 1}) {
    if (times < 1) break;
    for (size_t unit = 1; unit < units; ++unit) use(unit, times);
    for (size_t unit = units; unit-- > 1;) use(unit, times);
  }
}

}  // namespace

TrafficPlan plan_traffic(nn::Module& module, const Place& place, const Assignment& assignment,
                         const Options& options) {
  TrafficPlan plan;
  const auto units = planned_units(module, place.columns, options);
  for (const PlannedUnit& unit : units)
    for (const PlannedSection& section : unit) {
      if (!section.trained) continue;
      const int64_t slice = section.layout.slice();
      plan.reduced += slice * size_of(options.reduce) * (place.columns - 1) *
                      (assignment.by_round ? assignment.rounds : 1);
      plan.replicas += 2 * slice * size_of(DType::f32) * (place.rows - 1) / place.rows;
    }
  if (place.columns == 1) return plan;  // every unit is always whole

  const bool nearby = options.nearby > 0 && options.nearby < place.columns;
  std::vector<bool> here(units.size());  // nearby slices, present after the first gather of a step
  for_each_gather(units.size(), assignment.rounds, options, [&](size_t unit, int64_t times) {
    const int64_t ranks = here[unit] ? options.nearby : place.columns;
    for (const PlannedSection& section : units[unit])
      plan.gathered +=
          times * (section.layout.total() / ranks * size_of(section.wire) * (ranks - 1));
    here[unit] = nearby;
  });
  return plan;
}

}  // namespace lockstep::fsdp
