// Engine: the micro-batches of a step, from backward() to finish().
#include <algorithm>

#include "core/autograd/node.h"
#include "data_parallel/same_model.h"
#include "fsdp/engine/engine.h"

namespace lockstep::fsdp {
void Engine::backward(const Variable& loss, std::optional<int64_t> micro_batch) {
  check(loss.defined() && loss.data().numel() == 1,
        "[fsdp] backward() takes one micro-batch's loss, a single number");
  const int64_t leaf = leaf_of(micro_batch);
  check_trained();
  check_taken();
  check_said(true);
  check_all_values();
  schedule_.begin_micro_batch();
  begin_round(leaf, false);
  for (auto& [unit, count] : missing_) count = unit->trained();
  const double weight = 1.0 / static_cast<double>(uneven_.terms(micro_batches_));
  in_backward_ = true;
  try {
    loss.backward(Tensor::full(loss.shape(), weight, loss.dtype(), loss.device()));
    complete_unused();
    check_all_values();
  } catch (...) {
    abandon_micro_batch();
    throw;
  }
  in_backward_ = false;
  log_.end_micro_batch();
  end_round();
  // The other ranks of the row may have more micro-batches and need this rank to take part.
  if (++done_ == static_cast<int64_t>(assignment_.leaves.size()))
    while (round_ < assignment_.rounds) repeat_without_input();
}

// The index of the micro-batch among this rank's leaves.
int64_t Engine::leaf_of(std::optional<int64_t> micro_batch) const {
  const Progression& leaves = assignment_.leaves;
  check(done_ < static_cast<int64_t>(leaves.size()),
        "[fsdp] backward() after the last of this rank's ", leaves.size(),
        " micro-batches of the step: call finish() first");
  if (!micro_batch) return reducer_.next_leaf();
  const int64_t from_first = *micro_batch - leaves.front();
  check(from_first >= 0 && *micro_batch <= leaves.back() && from_first % leaves.step() == 0,
        "[fsdp] micro-batch ", *micro_batch, " is not run by rank ", mesh_.world->rank(),
        ", which runs leaves()");
  const int64_t leaf = from_first / leaves.step();
  check(!reducer_.is_done(leaf), "[fsdp] micro-batch ", *micro_batch,
        " had its backward() in this step");
  return leaf;
}

void Engine::begin_round(std::optional<int64_t> leaf, bool zeros) {
  if (round_ == 0)  // the gradients of the slices will be overwritten
    for (const Parameter& p : slices_.trained) p.zero_grad();
  reducer_.begin_round(round_, leaf, zeros);
}

void Engine::end_round() {
  between_steps_ = false;
  schedule_.end_micro_batch();
  reducer_.end_round();
  ++round_;
}

// If the same error happened on all ranks, they may retry the micro-batch.
void Engine::abandon_micro_batch() {
  in_backward_ = false;
  reducer_.abandon_round();
  schedule_.end_micro_batch();
  log_.abandon_micro_batch();
}

// Takes part in another rank's micro-batch: performs the same gathers and reductions as in the last
// one of its own.
void Engine::repeat_without_input() {
  const bool all_done = done_ == static_cast<int64_t>(assignment_.leaves.size());
  begin_round(all_done ? std::nullopt : std::optional(reducer_.next_leaf()), true);
  std::vector<std::shared_ptr<const Use>> graphs;  // kept alive as on the ranks that compute
  for (const Event& event : log_.last()) graphs.push_back(act(event));
  end_round();
}

// Completes parameters that took no part in this micro-batch.
void Engine::complete_unused() {
  std::vector<Parameter> unused;
  for (const auto& unit : units_) {
    if (missing_[unit.get()] == 0) continue;
    reducer_.begin(*unit);
    for (const auto& section : unit->sections())
      for (const Parameter& p : section->parameters())
        if (p.requires_grad() && !p.has_grad()) unused.push_back(p);
  }
  if (!find_unused_ && !unused.empty()) fail_unused(unused);
  for (const Parameter& p : unused) p.grad_buffer().zero_();
  for (const auto& unit : units_)
    if (missing_[unit.get()] > 0) note({Event::gradients_complete, unit.get(), true});
}

void Engine::fail_unused(const std::vector<Parameter>& unused) {
  fail(str("[fsdp] ", data_parallel::no_gradient_reached(mesh_.world->rank(), unused)));
}

// Only the taker that was added last receives the gradients.
void Engine::check_taken() {
  for (const auto& [parameter, taker] : takers_)
    if (!parameter.is_taken_by(taker.handle()))
      fail(str("[fsdp] rank ", mesh_.world->rank(),
               ": a later taker (Parameter::add_grad_taker) has the gradient of parameter '",
               parameter.name(), "': remove it, or add a hook instead (add_grad_hook)"));
}

// Sections, plans and optimizers depend on what was trained when the model was sharded.
void Engine::check_trained() {
  for (const auto& unit : units_)
    for (const auto& section : unit->sections())
      for (const Parameter& p : section->parameters())
        if (p.requires_grad() != section->trained())
          fail(str("[fsdp] rank ", mesh_.world->rank(), ": parameter '", p.name(), "' of unit '",
                   unit->name(), "' was ", section->trained() ? "frozen" : "unfrozen",
                   " after the model was sharded: call set_requires_grad() on all ranks before "
                   "fully_shard(), and build and shard the "
                   "model anew to change it later"));
}

int Engine::active_ranks(bool have_input) {
  check(micro_batches_ == mesh_.world->size(),
        "[fsdp] uneven inputs need one micro-batch a rank and step; this step has ", micro_batches_,
        " for ", mesh_.world->size(), " ranks");
  check(round_ == 0,
        "[fsdp] active_ranks() in the middle of a step: call it before the first backward(), and "
        "after the finish() of the step before");
  const Tensor total = data_parallel::UnevenInputs::entry(have_input);
  const Unit& root = *units_.front();
  wait(uneven_.count(total, *mesh_.world, root.label()), "counting the ranks that have input for",
       root);
  return uneven_.begin(have_input, total);
}

// If a rank does not do what it announced, the mean would use the wrong number of ranks.
void Engine::check_said(bool has_input) {
  const std::string wrong = uneven_.contradiction(has_input, mesh_.world->rank());
  if (!wrong.empty()) fail("[fsdp] " + wrong);
}

void Engine::skip() {
  check(uneven_.counted(),
        "[fsdp] skip() is for uneven inputs: call active_ranks() at the start of each step on "
        "every rank");
  check_said(false);
  check_trained();
  check_taken();
  if (log_.last().empty())
    fail(str("[fsdp] rank ", mesh_.world->rank(),
             ": skip() before this rank's first backward(), which shows what the others do"));
  repeat_without_input();
  ++done_;
}

void Engine::finish() {
  check(round_ == assignment_.rounds,
        "[fsdp] finish() before the step's last micro-batch: this rank ran ", done_, " of ",
        assignment_.leaves.size());
  check_all_values();
  reducer_.finish();
  values_changed();
  between_steps_ = true;
  for (const Parameter& p : slices_.trained) p.mark_grad_valid();
  exposed_ = reducer_.take_exposed();
  exposed_.add(schedule_.take_exposed());
  round_ = done_ = 0;
  uneven_.end_step();
}

}  // namespace lockstep::fsdp
