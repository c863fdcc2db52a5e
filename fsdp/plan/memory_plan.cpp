#include "fsdp/plan/memory_plan.h"

#include <algorithm>

#include "core/base/sum_tree.h"
#include "fsdp/plan/planned_unit.h"
#include "fsdp/reducer.h"

namespace lockstep::fsdp {
namespace {

int64_t gathered_bytes(const PlannedUnit& unit) {
  int64_t bytes = 0;
  for (const PlannedSection& section : unit)
    bytes += section.layout.total() * size_of(section.wire);
  return bytes;
}

// The root is whole while any unit is; of the other units, as many as may be in flight.
int64_t gathered_bound(const std::vector<PlannedUnit>& units, const Options& options) {
  std::vector<int64_t> others;
  for (size_t i = 1; i < units.size(); ++i) others.push_back(gathered_bytes(units[i]));
  std::sort(others.rbegin(), others.rend());
  if (options.reshard == Reshard::after_forward)
    others.resize(std::min(others.size(), static_cast<size_t>(options.units_in_flight)));
  int64_t bytes = gathered_bytes(units.front());
  for (const int64_t other : others) bytes += other;
  return bytes;
}

}  // namespace

MemoryPlan plan_memory(nn::Module& module, const Place& place, const Assignment& assignment,
                       const Options& options) {
  const int columns = place.columns;
  const std::vector<PlannedUnit> units = planned_units(module, columns, options);
  MemoryPlan plan;
  const bool sharded = columns > 1, by_round = assignment.by_round && sharded;
  int64_t slices = 0, wholes = 0, root = 0, largest = 0;  // elements of trained sections
  for (const PlannedUnit& unit : units) {
    int64_t elements = 0;
    for (const PlannedSection& section : unit) {
      const int64_t slice = section.layout.slice(), dtype = size_of(section.dtype);
      if (!options.own_memory) plan.parameters += slice * dtype;
      if (section.wire != section.dtype) plan.parameters += slice * size_of(section.wire);
      if (options.nearby > 0 && options.nearby < columns)
        plan.parameters += section.layout.total() / options.nearby * size_of(section.wire);
      if (!section.trained) continue;
      slices += slice;
      for (const Piece& piece : section.layout.pieces(place.column)) plan.trained += piece.length;
      elements += section.layout.total();
    }
    wholes += elements;
    // The root's gradients keep a buffer of their own; the other units share theirs.
    if (&unit == &units.front())
      root = elements;
    else
      largest = std::max(largest, elements);
  }
  if (sharded) plan.gathered = gathered_bound(units, options);
  const auto f32 = size_of(DType::f32);
  if (by_round)
    plan.gradients = slices * f32 * (1 + sum_tree::level_count(assignment.rounds)) +
                     (root + largest * static_cast<int64_t>(Reducer::kBuffers)) * f32;
  else
    plan.gradients =
        slices * f32 + wholes * f32 *
                           (sum_tree::level_count(static_cast<int64_t>(assignment.leaves.size())) +
                            (sharded ? 1 : 0));
  return plan;
}

}  // namespace lockstep::fsdp
