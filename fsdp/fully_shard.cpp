#include "fsdp/fully_shard.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "comm/text.h"
#include "core/autograd/node.h"
#include "fsdp/event_log.h"
#include "fsdp/hooks.h"
#include "fsdp/mesh.h"
#include "fsdp/plan/memory_plan.h"
#include "fsdp/reducer.h"
#include "fsdp/same_model.h"
#include "fsdp/schedule.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {
namespace {

std::vector<std::unique_ptr<Unit>> make_units(nn::Module& module, const Mesh& mesh,
                                              const Options& options) {
  std::vector<std::unique_ptr<Unit>> units;
  std::vector<UnitPlan> plans = plan_units(module, options.wrap);
  const uint64_t label = mesh.world->reserve_labels(plans.size() * (1 + Reducer::kTimes));
  for (UnitPlan& plan : plans)
    units.push_back(
        std::make_unique<Unit>(std::move(plan), units.size(), label + units.size(), mesh, options));
  return units;
}

// On one rank sharded values are always here; where they come and go, their gradients lie
// elsewhere.
bool is_sharded(const Parameter& p) {
  const Storage& values = *p.data().storage();
  return p.impl()->grad->source || (values.present() && !values.why_absent().empty());
}

void check_usable(const nn::Module& module) {
  bool trains = false;
  for (const Parameter& p : module.parameters())
    check(!is_sharded(p), "[fsdp] parameter '", p.name(),
          "' was sharded before: a model is sharded once, as a whole; build it anew to shard it in "
          "another way");
  for (const Parameter& p : module.parameters()) {
    check(p.data().storage()->present() || p.impl()->initializer, "[fsdp] parameter '", p.name(),
          "' has no values, and nothing says how it starts: call initialize(seed) on the model "
          "first");
    trains = trains || p.requires_grad();
    check(!p.requires_grad() || p.dtype() == DType::f32, "[fsdp] parameter '", p.name(), "' is ",
          p.data(),
          ", but gradients are summed in f32: keep f32 parameters and compute in bf16 through "
          "ops::PrecisionScope");
  }
  check(trains, "[fsdp] there is nothing to train: no parameter requires a gradient");
}

const comm::DeviceMesh& checked(const comm::DeviceMesh& mesh, const nn::Module& module) {
  comm::agree(mesh.world().get(), [&] {
    check_usable(module);
    return std::string();
  });
  check_same_model(module, *mesh.world());
  return mesh;
}

constexpr std::string_view kNotOurs =
    "[fsdp] call backward(loss) of the sharded model rather than loss.backward()";

}  // namespace

struct FullyShardedDataParallel::Impl {
  Impl(std::shared_ptr<nn::Module> module_, const comm::DeviceMesh& grid, const Options& options)
      : module(std::move(module_)),
        micro_batches(options.micro_batches > 0 ? options.micro_batches : grid.world()->size()),
        find_unused(options.find_unused_parameters),
        mesh(Mesh::make(checked(grid, *module), options.nearby)),
        assignment(
            assign(micro_batches, mesh.place(), options.accumulate == Accumulate::in_shards)),
        units(make_units(*module, mesh, options)),
        reducer(units, mesh, assignment, options.reduce),
        schedule(units, options),
        memory(plan_memory(*module, mesh.place(), assignment, options)) {
    for (const auto& [name, buffer] : module->buffers()) mesh.world->broadcast(buffer, 0).wait();
    collect_slices();
    for (const auto& unit : units) watch(*unit);
  }

  void collect_slices() {
    std::unordered_map<const void*, size_t> index_of;
    for (const Parameter& p : module->parameters())
      index_of.emplace(p.impl().get(), index_of.size());
    std::vector<std::pair<size_t, Section::Shard>> found;
    for (const auto& unit : units)
      for (const auto& section : unit->sections())
        for (auto& shard :
             section->shards(section->trained() ? reducer.gradient(*section) : Tensor()))
          found.emplace_back(index_of.at(section->parameters()[shard.parameter].impl().get()),
                             std::move(shard));
    std::sort(found.begin(), found.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [index, shard] : found) {
      const bool trained = shard.values.requires_grad();
      slices.push_back({shard.values.name(), shard.values.data(), shard.spec, index, trained});
      if (trained) trained_slices.push_back(shard.values);
    }
  }

  void watch(Unit& unit) {
    missing[&unit] = 0;
    unit.set_on_read([this, &unit] { on_read(unit); });
    for (const auto& section : unit.sections()) {
      if (!section->trained()) continue;
      section->set_grad_source([this, &unit](const Parameter& p) { on_first_gradient(unit, p); });
      for (const Parameter& p : section->parameters())
        takers.push_back({p, ScopedHook(p.add_grad_taker(
                                 [this, &unit](const Parameter&) { on_gradient(unit); }))});
    }
  }

  // With the hooks alive as long as this.
  void install_hooks(const std::shared_ptr<Impl>& self, std::optional<DType> output) {
    for (const auto& owned : units) {
      Unit& unit = *owned;
      install(unit.module(),
              {.unit = unit.name(),
               .alive = self,
               .before_forward =
                   [this, &unit] {
                     note({Event::before_forward, &unit, in_backward});
                   },
               .after_forward =
                   [this, &unit](bool recorded) {
                     return note({Event::after_forward, &unit, in_backward, recorded});
                   },
               .before_backward =
                   [this, &unit](const std::shared_ptr<const Use>& use) {
                     check(in_backward, kNotOurs);
                     check_current(unit, *use);
                     note({Event::before_backward, &unit, true, true, use});
                   },
               .output = unit.is_root() ? output : std::nullopt});
    }
  }

  void check_current(const Unit& unit, const Use& use) {
    if (schedule.is_current(use)) return;
    fail(str("[fsdp] rank ", mesh.world->rank(), ": backward() came to a forward pass of unit '",
             unit.name(),
             "' that ran before the parameters changed (finish() or values_changed()): run forward "
             "and backward in one step"));
  }

  std::shared_ptr<const Use> note(const Event& event) {
    std::shared_ptr<const Use> use = act(event);
    log.add(event, schedule.pass(), grad_enabled(), use);
    return use;
  }

  std::shared_ptr<const Use> act(const Event& event) {
    Unit& unit = *event.unit;
    switch (event.kind) {
      case Event::before_forward:
        if (between_steps && !event.in_backward && (unit.is_root() || !schedule.in_forward()))
          release_old_values();
        check_values(unit);
        schedule.before_forward(unit);
        break;
      case Event::after_forward:
        check_values(unit);
        return schedule.after_forward(unit, event.recorded);
      case Event::read:
        check_values(unit);
        schedule.read(unit);
        break;
      case Event::before_backward:
        check_values(unit);
        schedule.before_backward(unit, *event.use);
        break;
      case Event::gradients_complete:
        // Frozen parameters may still be needed to pass gradients on.
        if (!unit.has_frozen()) schedule.backward_done(unit);
        reducer.begin(unit);
        reducer.complete(unit);
        break;
    }
    return nullptr;
  }

  // A forward pass between finish() and the optimizer's step left units gathered with the values
  // before the step. Slices change on all ranks alike, but for those that own nothing of what
  // changed: so they ask. Not where a graph is alive: its values must not change. A rank that
  // differentiates fewer micro-batches than others then asks as often, though they may run forward
  // passes ahead.
  void release_old_values() {
    if (schedule.has_open_graphs()) return;
    bool changed =
        std::any_of(units.begin(), units.end(), [](const auto& unit) { return unit->changed(); });
    if (mesh.columns() > 1) {
      if (!schedule.has_gathered()) return;
      const Unit& root = *units.front();
      const Tensor any = Tensor::full({1}, changed ? 1 : 0, DType::i32);
      wait(mesh.shard->all_reduce(any, {.op = comm::ReduceOp::max, .label = root.label()}),
           "agreeing on the values of", root);
      changed = any.item() != 0;
    }
    if (changed) let_go_of_values();
  }

  void let_go_of_values() {
    for (const auto& unit : units) check_not_written(*unit);
    schedule.release_all();
  }

  // What is in use has one value on all ranks, for the whole step.
  void check_values(const Unit& unit) {
    check_not_written(unit);
    if (const std::string what = unit.written_slices(); !what.empty())
      fail(str("[fsdp] rank ", mesh.world->rank(), ": ", what, " in unit '", unit.name(),
               "' within a step, or after a forward pass that recorded a graph: what follows would "
               "use the values of before; change slices "
               "between finish() and the next forward pass (an evaluation in between: run it under "
               "NoGradGuard, or drop its variables), or "
               "call values_changed() on all ranks and run forward again"));
  }

  void check_not_written(const Unit& unit) {
    if (const std::string what = unit.written_parameter(); !what.empty())
      fail(str("[fsdp] rank ", mesh.world->rank(), ": ", what, " of unit '", unit.name(),
               "' after the model was sharded: the ranks own its values, and the change would be "
               "lost; change this rank's slices() instead, "
               "between finish() and the next forward pass"));
  }

  void check_all_values() {
    for (const auto& unit : units) check_values(*unit);
  }

  void backward(const Variable& loss) {
    check(loss.defined() && loss.data().numel() == 1,
          "[fsdp] backward() takes one micro-batch's loss, a single number");
    check(leaf < static_cast<int64_t>(assignment.leaves.size()),
          "[fsdp] backward() after the last of this rank's ", assignment.leaves.size(),
          " micro-batches of the step: call finish() first");
    check_trained();
    check_taken();
    check_said(true);
    check_all_values();
    begin_round(false);
    for (auto& [unit, count] : missing) count = unit->trained();
    const double weight = 1.0 / static_cast<double>(said ? said->ranks : micro_batches);
    in_backward = true;
    try {
      loss.backward(Tensor::full(loss.shape(), weight, loss.dtype(), loss.device()));
      complete_unused();
      check_all_values();
    } catch (...) {
      abandon_micro_batch();
      throw;
    }
    in_backward = between_steps = false;
    schedule.end_micro_batch();
    log.end_micro_batch();
    ++round;
    // The other ranks of the row may have more to compute, and need this one for it.
    if (++leaf == static_cast<int64_t>(assignment.leaves.size()))
      while (round < assignment.rounds) repeat_without_input();
  }

  void begin_round(bool zeros) {
    if (round == 0)  // the slices' gradients are about to be overwritten
      for (const Parameter& p : trained_slices) p.zero_grad();
    reducer.begin_round(round, leaf, zeros);
  }

  // Gradients come to who took them last.
  void check_taken() {
    for (const auto& [parameter, taker] : takers)
      if (!parameter.is_taken_by(taker.handle()))
        fail(str("[fsdp] rank ", mesh.world->rank(),
                 ": a later taker (Parameter::add_grad_taker) "
                 "has taken over the gradient of parameter '",
                 parameter.name(), "': remove it, or add a hook instead (add_grad_hook)"));
  }

  // Sections, plans and optimizers were made for what was trained when the model was sharded.
  void check_trained() {
    for (const auto& unit : units)
      for (const auto& section : unit->sections())
        for (const Parameter& p : section->parameters())
          if (p.requires_grad() != section->trained())
            fail(str("[fsdp] rank ", mesh.world->rank(), ": parameter '", p.name(), "' of unit '",
                     unit->name(), "' was ", section->trained() ? "frozen" : "unfrozen",
                     " after the model was sharded: call set_requires_grad() on all ranks before "
                     "fully_shard(), and build and shard the "
                     "model anew to change it later"));
  }

  // Ranks on which the same went wrong may try it again.
  void abandon_micro_batch() {
    in_backward = false;
    reducer.abandon_round();
    schedule.end_micro_batch();
    log.abandon_micro_batch();
  }

  // Takes part in one more micro-batch of the others: the same gathers and reductions as in the
  // last one.
  void repeat_without_input() {
    begin_round(true);
    std::vector<std::shared_ptr<const Use>> graphs;  // alive as on the ranks that compute
    for (const Event& event : log.last()) graphs.push_back(act(event));
    between_steps = false;
    schedule.end_micro_batch();
    ++round;
  }

  int count_active(bool have_input) {
    check(micro_batches == mesh.world->size(),
          "[fsdp] uneven inputs need one micro-batch a rank and step; this step has ",
          micro_batches, " for ", mesh.world->size(), " ranks");
    check(round == 0,
          "[fsdp] active_ranks() in the middle of a step: call it before the first backward(), and "
          "after the finish() of the step before");
    const Tensor count = Tensor::full({1}, have_input ? 1 : 0, DType::i32);
    const Unit& root = *units.front();
    wait(mesh.world->all_reduce(count, {.label = root.label()}),
         "counting the ranks that have input for", root);
    const int ranks = static_cast<int>(count.item());
    said.reset();
    if (ranks > 0) said = Said{have_input, ranks};
    return ranks;
  }

  // A rank that does other than it said would make the mean one over the wrong number of ranks.
  void check_said(bool has_input) {
    if (said && said->have_input != has_input)
      fail(str("[fsdp] rank ", mesh.world->rank(), " told active_ranks() that it has ",
               said->have_input ? "" : "no ", "input, but called ",
               has_input ? "backward()" : "skip()",
               ": the mean would be over the wrong number of ranks"));
  }

  void skip() {
    check(said.has_value(),
          "[fsdp] skip() is for uneven inputs: call active_ranks() at the start of each step on "
          "every rank");
    check_said(false);
    check_trained();
    if (log.last().empty())
      fail(str("[fsdp] rank ", mesh.world->rank(),
               ": skip() before this rank's first backward(), which shows what the others do"));
    repeat_without_input();
    ++leaf;
  }

  void on_gradient(Unit& unit) {
    check(in_backward, kNotOurs);
    if (--missing[&unit] == 0) note({Event::gradients_complete, &unit, true});
  }

  // A gradient has no place yet. It may come before backward reaches the unit's output: the
  // parameter was read after the unit's forward pass, or a side value of it was.
  void on_first_gradient(Unit& unit, const Parameter& p) {
    check(in_backward, kNotOurs);
    check(!reducer.begun(unit), "[fsdp] a gradient of parameter '", p.name(),
          "' arrived when those of unit '", unit.name(),
          "' were complete: backward() must not run within backward()");
    reducer.begin(unit);
  }

  // A parameter is read while its unit is not in use. All ranks read it, if the micro-batch does;
  // at other times nobody can know.
  void on_read(Unit& unit) {
    if (in_backward || schedule.in_forward() || log.has_open_passes())
      note({Event::read, &unit, in_backward});
    else
      schedule.peek(unit);
  }

  // Parameters that took no part in this micro-batch.
  void complete_unused() {
    std::vector<Parameter> unused;
    for (const auto& unit : units) {
      if (missing[unit.get()] == 0) continue;
      reducer.begin(*unit);
      for (const auto& section : unit->sections())
        for (const Parameter& p : section->parameters())
          if (p.requires_grad() && !p.has_grad()) unused.push_back(p);
    }
    if (!find_unused && !unused.empty()) fail_unused(unused);
    for (const Parameter& p : unused) p.grad_buffer().zero_();
    for (const auto& unit : units)
      if (missing[unit.get()] > 0) note({Event::gradients_complete, unit.get(), true});
  }

  [[noreturn]] void fail_unused(const std::vector<Parameter>& unused) {
    constexpr size_t kShown = 8;
    std::string names;
    for (size_t i = 0; i < std::min(unused.size(), kShown); ++i)
      names += str(i ? ", '" : "'", unused[i].name(), "'");
    if (unused.size() > kShown) names += str(" and ", unused.size() - kShown, " more");
    fail(str("[fsdp] rank ", mesh.world->rank(), ": no gradient reached ", names,
             " in this micro-batch; if that is meant, set find_unused_parameters, otherwise check "
             "the model's forward()"));
  }

  // The other ranks wait in collectives that this one will never join.
  [[noreturn]] void fail(const std::string& message) {
    mesh.abort(message);
    throw UsageError(message);
  }

  void finish() {
    check(round == assignment.rounds,
          "[fsdp] finish() before the step's last micro-batch: this rank ran ", leaf, " of ",
          assignment.leaves.size());
    check_all_values();
    reducer.finish();
    values_changed();
    between_steps = true;
    for (const Parameter& p : trained_slices) p.mark_grad_valid();
    exposed = reducer.take_exposed() + schedule.take_exposed();
    round = leaf = 0;
    said.reset();
  }

  void values_changed() {
    for (const auto& unit : units) check_not_written(*unit);
    schedule.end_step();
    log.end_step();
  }

  void for_each_whole(const std::function<void(const std::string&, const Tensor&)>& use) {
    struct Place {
      const Unit* unit;
      const Section* section;
      size_t index;
    };
    std::vector<std::pair<std::string, Place>> places;
    for (const auto& unit : units)
      for (const auto& section : unit->sections())
        for (size_t i = 0; i < section->parameters().size(); ++i)
          places.push_back({section->parameters()[i].name(), {unit.get(), section.get(), i}});
    std::sort(places.begin(), places.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    const Section* here = nullptr;
    Tensor whole;
    for (const auto& [name, place] : places) {
      if (place.section != here) {
        here = place.section;
        whole = Tensor();
        MemoryScope scope(MemoryCategory::gathered);
        whole = Tensor::empty({here->layout().total()}, here->master().dtype(),
                              here->master().device());
        wait(mesh.shard->all_gather(whole, here->master(), place.unit->label()), "gathering",
             *place.unit);
      }
      const Shape& shape = here->parameters()[place.index].shape();
      if (use)
        use(name, whole.narrow(0, here->layout().offset(place.index), shape.numel()).view(shape));
    }
  }

  std::shared_ptr<nn::Module> module;
  const int64_t micro_batches;
  const bool find_unused;
  const Mesh mesh;
  const Assignment assignment;
  const std::vector<std::unique_ptr<Unit>> units;
  Reducer reducer;
  Schedule schedule;
  const MemoryPlan memory;
  std::vector<Slice> slices;
  std::vector<Parameter> trained_slices;
  struct Taker {
    Parameter parameter;
    ScopedHook hook;
  };
  std::vector<Taker> takers;  // of the gradients of all trained parameters

  // The step under way.
  int64_t round = 0, leaf = 0;
  bool in_backward = false;
  // From finish() to the end of the next backward(): slices may have changed.
  bool between_steps = true;
  std::map<const Unit*, int64_t> missing;  // gradients that this micro-batch has yet to bring
  EventLog log;
  struct Said {  // to active_ranks(), for one step
    bool have_input;
    int ranks;  // that have some
  };
  std::optional<Said> said;  // empty: inputs are even
  Duration exposed{};
};

FullyShardedDataParallel::FullyShardedDataParallel(std::shared_ptr<nn::Module> module,
                                                   const comm::DeviceMesh& mesh, Options options)
    : impl_(std::make_shared<Impl>(std::move(module), mesh, options)) {
  impl_->install_hooks(impl_, options.output);
}
FullyShardedDataParallel::~FullyShardedDataParallel() = default;

const Progression& FullyShardedDataParallel::leaves() const { return impl_->assignment.leaves; }
int64_t FullyShardedDataParallel::micro_batches() const { return impl_->micro_batches; }
void FullyShardedDataParallel::backward(const Variable& loss) { impl_->backward(loss); }
void FullyShardedDataParallel::finish() { impl_->finish(); }
int FullyShardedDataParallel::active_ranks(bool have_input) {
  return impl_->count_active(have_input);
}
void FullyShardedDataParallel::skip() { impl_->skip(); }
const std::vector<Parameter>& FullyShardedDataParallel::parameters() const {
  return impl_->trained_slices;
}
const std::vector<FullyShardedDataParallel::Slice>& FullyShardedDataParallel::slices() const {
  return impl_->slices;
}
void FullyShardedDataParallel::values_changed() { impl_->values_changed(); }
void FullyShardedDataParallel::for_each_whole(
    const std::function<void(const std::string&, const Tensor&)>& use) {
  impl_->for_each_whole(use);
}
MemoryPlan FullyShardedDataParallel::memory_plan() const { return impl_->memory; }
Duration FullyShardedDataParallel::exposed_communication() const { return impl_->exposed; }

std::vector<std::pair<std::string, std::vector<std::string>>> FullyShardedDataParallel::units()
    const {
  std::vector<std::pair<std::string, std::vector<std::string>>> units;
  for (const auto& unit : impl_->units) {
    units.push_back({unit->name(), {}});
    for (const auto& section : unit->sections())
      for (const Parameter& p : section->parameters()) units.back().second.push_back(p.name());
  }
  return units;
}

std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      const comm::DeviceMesh& mesh,
                                                      Options options) {
  return std::make_unique<FullyShardedDataParallel>(std::move(module), mesh, std::move(options));
}

std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      std::shared_ptr<comm::ProcessGroup> group,
                                                      Options options) {
  const int ranks = group->size();
  const comm::DeviceMesh mesh(std::move(group), {{"replicate", 1}, {"shard", ranks}});
  return fully_shard(std::move(module), mesh, std::move(options));
}

}  // namespace lockstep::fsdp
