#include "fsdp/memory_plan.h"

#include <algorithm>
#include <bit>

#include "fsdp/reducer.h"

namespace lockstep::fsdp {
namespace {

// Levels of the binary counter that adds up n terms, the total not counted.
int64_t levels(int64_t n) { return n <= 1 ? 0 : std::bit_width(static_cast<uint64_t>(n - 1)); }

int64_t gathered_bytes(const Unit& unit) {
  int64_t bytes = 0;
  for (const auto& section : unit.sections()) bytes += section->layout().total() * size_of(section->wire_dtype());
  return bytes;
}

// The root is whole for as long as any unit is; of the others as many as may be in flight.
int64_t gathered_bound(const std::vector<std::unique_ptr<Unit>>& units, const Options& options) {
  std::vector<int64_t> others;
  for (size_t i = 1; i < units.size(); ++i) others.push_back(gathered_bytes(*units[i]));
  std::sort(others.rbegin(), others.rend());
  if (options.reshard == Reshard::after_forward) others.resize(std::min(others.size(), static_cast<size_t>(options.units_in_flight)));
  int64_t bytes = gathered_bytes(*units.front());
  for (const int64_t other : others) bytes += other;
  return bytes;
}

}  // namespace

MemoryPlan plan_memory(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh, const Assignment& assignment,
                       const Options& options) {
  MemoryPlan plan;
  const bool sharded = mesh.columns() > 1, by_round = assignment.by_round && sharded;
  int64_t slices = 0, wholes = 0, root = 0, largest = 0;  // elements of trained sections
  for (const auto& unit : units) {
    int64_t elements = 0;
    for (const auto& section : unit->sections()) {
      const int64_t slice = section->layout().slice(), dtype = size_of(section->master().dtype());
      if (!options.own_memory) plan.parameters += slice * dtype;
      if (size_of(section->wire_dtype()) != dtype) plan.parameters += slice * size_of(section->wire_dtype());
      if (mesh.nearby) plan.parameters += section->layout().total() / mesh.nearby->size() * size_of(section->wire_dtype());
      if (!section->trained()) continue;
      slices += slice;
      elements += section->layout().total();
    }
    wholes += elements;
    // The root's gradients stay in a buffer of their own while those of the others come and go.
    if (unit->is_root())
      root = elements;
    else
      largest = std::max(largest, elements);
  }
  if (sharded) plan.gathered = gathered_bound(units, options);
  const auto f32 = size_of(DType::f32);
  if (by_round)
    plan.gradients = slices * f32 * (1 + levels(assignment.rounds)) + (root + largest * static_cast<int64_t>(Reducer::kBuffers)) * f32;
  else
    plan.gradients = slices * f32 + wholes * f32 * (levels(static_cast<int64_t>(assignment.leaves.size())) + (sharded ? 1 : 0));
  return plan;
}

}  // namespace lockstep::fsdp
