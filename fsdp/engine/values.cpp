// Engine: who may change values, and when.
#include <algorithm>

#include "fsdp/engine/engine.h"

namespace lockstep::fsdp {

// A forward pass between finish() and the optimizer's step left units gathered with the values
// before the step. Slices change on all ranks alike, but for those that own nothing of what
// changed: so they ask. Not where a graph is alive: its values must not change. A rank that
// differentiates fewer micro-batches than others then asks as often, though they may run forward
// passes ahead.
void Engine::release_old_values() {
  if (schedule_.has_open_graphs()) return;
  bool changed =
      std::any_of(units_.begin(), units_.end(), [](const auto& unit) { return unit->changed(); });
  if (mesh_.columns() > 1) {
    if (!schedule_.has_gathered()) return;
    const Unit& root = *units_.front();
    const Tensor any = Tensor::full({1}, changed ? 1 : 0, DType::i32);
    wait(mesh_.shard->all_reduce(any, {.op = comm::ReduceOp::max, .label = root.label()}),
         "agreeing on the values of", root);
    changed = any.item() != 0;
  }
  if (!changed) return;
  for (const auto& unit : units_) check_not_written(*unit);
  schedule_.release_all();
}

// What is in use has one value on all ranks, for the whole step.
void Engine::check_values(const Unit& unit) {
  check_not_written(unit);
  if (const std::string what = unit.written_slices(); !what.empty())
    fail(str("[fsdp] rank ", mesh_.world->rank(), ": ", what, " in unit '", unit.name(),
             "' within a step, or after a forward pass that recorded a graph: what follows would "
             "use the values of before; change slices "
             "between finish() and the next forward pass (an evaluation in between: run it under "
             "NoGradGuard, or drop its variables), or "
             "call values_changed() on all ranks and run forward again"));
}

void Engine::check_not_written(const Unit& unit) {
  if (const std::string what = unit.written_parameter(); !what.empty())
    fail(str("[fsdp] rank ", mesh_.world->rank(), ": ", what, " of unit '", unit.name(),
             "' after the model was sharded: the ranks own its values, and the change would be "
             "lost; change this rank's slices() instead, "
             "between finish() and the next forward pass"));
}

void Engine::check_all_values() {
  for (const auto& unit : units_) check_values(*unit);
}

void Engine::values_changed() {
  for (const auto& unit : units_) check_not_written(*unit);
  schedule_.end_step();
  log_.end_step();
}

}  // namespace lockstep::fsdp
