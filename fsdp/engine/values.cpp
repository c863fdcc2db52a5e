// Engine: checks who changes values, and when.
#include <algorithm>

#include "fsdp/engine/engine.h"

namespace lockstep::fsdp {

// A forward pass between finish() and the optimizer's step leaves units gathered with old values.
// Slices change on all ranks alike, except on ranks that own nothing of the changed parameters, so
// the ranks ask each other. They do not ask while a graph is alive, as its values must not change.
// So a rank that differentiates fewer micro-batches asks as often as the others, even if those run
// forward passes ahead.
void Engine::release_old_values() {
  if (schedule_.has_open_graphs()) return;
  bool changed =
      std::any_of(units_.begin(), units_.end(), [](const auto& unit) { return unit->changed(); });
  if (mesh_.columns() > 1) {
    if (!schedule_.has_gathered()) return;
    const Unit& root = *units_.front();
    const Tensor any = Tensor::full({1}, changed ? 1 : 0, DType::i32);
    wait(mesh_.shard->host().all_reduce(any, {.op = comm::ReduceOp::max, .label = root.label()}),
         "agreeing on the values of", root);
    changed = any.item() != 0;
  }
  if (!changed) return;
  for (const auto& unit : units_) check_not_written(*unit);
  schedule_.release_all();
}

// Values in use are the same on all ranks during the whole step.
void Engine::check_values(const Unit& unit) {
  check_not_written(unit);
  if (const std::string what = unit.written_slices(); !what.empty())
    fail(str("[fsdp] rank ", mesh_.world->rank(), ": ", what, " in unit '", unit.name(),
             "' within a step, or after a forward pass that recorded a graph: later passes would "
             "use the old values; change slices "
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
