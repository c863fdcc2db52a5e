#include "fsdp/engine/engine.h"

#include <algorithm>

#include "comm/text.h"
#include "core/autograd/node.h"
#include "data_parallel/same_model.h"
#include "fsdp/engine/hooks.h"
#include "fsdp/plan/memory_plan.h"

namespace lockstep::fsdp {
namespace {

std::vector<std::unique_ptr<Unit>> make_units(nn::Module& module, const Mesh& mesh,
                                              const Options& options, uint64_t times) {
  std::vector<std::unique_ptr<Unit>> units;
  std::vector<UnitPlan> plans = plan_units(module, options.wrap);
  const uint64_t label = mesh.world->reserve_labels(plans.size() * (1 + times));
  for (UnitPlan& plan : plans)
    units.push_back(
        std::make_unique<Unit>(std::move(plan), units.size(), label + units.size(), mesh, options));
  return units;
}

// Whether the parameter belongs to a sharded model. On one rank, sharded values always exist. On
// several ranks they come and go, but then the gradients have a source.
bool is_sharded(const Parameter& p) {
  const Storage& values = *p.data().storage();
  return p.impl()->grad->source || (values.present() && !values.why_absent().empty());
}

void check_usable(const nn::Module& module, const comm::ProcessGroup& group,
                  const Options& options) {
  bool trains = false;
  for (const Parameter& p : module.parameters())
    check(!is_sharded(p), "[fsdp] parameter '", p.name(),
          "' was sharded before: a model is sharded once, as a whole; build it anew to shard it in "
          "another way");
  for (const Parameter& p : module.parameters()) {
    check(p.data().storage()->present() || p.impl()->initializer, "[fsdp] parameter '", p.name(),
          "' has no values, and no initial values are known: call initialize(seed) on the model "
          "first");
    trains = trains || p.requires_grad();
    check(!p.requires_grad() || p.dtype() == DType::f32, "[fsdp] parameter '", p.name(), "' is ",
          p.data(),
          ", but gradients are summed in f32: keep f32 parameters and compute in bf16 through "
          "ops::PrecisionScope");
  }
  data_parallel::check_devices("fsdp", module.parameters(), module.buffers(), group);
  check(
      !options.own_memory || group.device() == kCpu, "[fsdp] the model is on ", group.device(),
      ", but Options::own_memory (parallel.offload) keeps its slices in memory of the host, which ",
      "a device's kernels cannot read: train without it, or on a CPU");
  check(trains, "[fsdp] there is nothing to train: no parameter requires a gradient");
}

const comm::DeviceMesh& checked(const comm::DeviceMesh& mesh, const nn::Module& module,
                                const Options& options) {
  comm::agree(mesh.world().get(), [&] {
    check_usable(module, *mesh.world(), options);
    return std::string();
  });
  data_parallel::check_same_model("fsdp", module.parameters(), module.buffers(), *mesh.world());
  return mesh;
}

constexpr std::string_view kNotOurs =
    "[fsdp] call backward(loss) of the sharded model rather than loss.backward()";

}  // namespace

Engine::Engine(std::shared_ptr<nn::Module> module, const comm::DeviceMesh& mesh,
               const Options& options)
    : module_(std::move(module)),
      micro_batches_(options.micro_batches > 0 ? options.micro_batches : mesh.world()->size()),
      find_unused_(options.find_unused_parameters),
      mesh_(Mesh::make(checked(mesh, *module_, options), options.nearby)),
      assignment_(
          assign(micro_batches_, mesh_.place(), options.accumulate == Accumulate::in_shards)),
      units_(make_units(*module_, mesh_, options, Reducer::times(micro_batches_))),
      reducer_(units_, mesh_, assignment_, Reducer::times(micro_batches_), options.reduce),
      schedule_(units_, options),
      memory_(plan_memory(*module_, mesh_.place(), assignment_, options)) {
  for (const auto& [name, buffer] : module_->buffers()) mesh_.world->broadcast(buffer, 0).wait();
  slices_ = owned_slices(*module_, units_, reducer_);
  for (const auto& unit : units_) watch(*unit);
}

void Engine::watch(Unit& unit) {
  missing_[&unit] = 0;
  unit.set_on_read([this, &unit] { on_read(unit); });
  for (const auto& section : unit.sections()) {
    if (!section->trained()) continue;
    section->set_grad_source([this, &unit](const Parameter& p) { on_first_gradient(unit, p); });
    for (const Parameter& p : section->parameters())
      takers_.push_back({p, ScopedHook(p.add_grad_taker(
                                [this, &unit](const Parameter&) { on_gradient(unit); }))});
  }
}

void Engine::install_hooks(const std::shared_ptr<Engine>& self, std::optional<DType> output) {
  for (const auto& owned : units_) {
    Unit& unit = *owned;
    install(unit.module(),
            {.unit = unit.name(),
             .alive = self,
             .before_forward =
                 [this, &unit] {
                   note({Event::before_forward, &unit, in_backward_});
                 },
             .after_forward =
                 [this, &unit](bool recorded) {
                   return note({Event::after_forward, &unit, in_backward_, recorded});
                 },
             .before_backward =
                 [this, &unit](const std::shared_ptr<const Use>& use) {
                   check(in_backward_, kNotOurs);
                   check_current(unit, *use);
                   note({Event::before_backward, &unit, true, true, use});
                 },
             .output = unit.is_root() ? output : std::nullopt});
  }
}

void Engine::check_current(const Unit& unit, const Use& use) {
  if (schedule_.is_current(use)) return;
  fail(str("[fsdp] rank ", mesh_.world->rank(), ": backward() came to a forward pass of unit '",
           unit.name(),
           "' that ran before the parameters changed (finish() or values_changed()): run forward "
           "and backward in one step"));
}

std::shared_ptr<const Use> Engine::note(const Event& event) {
  std::shared_ptr<const Use> use = act(event);
  log_.add(event, schedule_.pass(), grad_enabled(), use);
  return use;
}

std::shared_ptr<const Use> Engine::act(const Event& event) {
  Unit& unit = *event.unit;
  switch (event.kind) {
    case Event::before_forward:
      if (between_steps_ && !event.in_backward && (unit.is_root() || !schedule_.in_forward()))
        release_old_values();
      check_values(unit);
      schedule_.before_forward(unit);
      break;
    case Event::after_forward:
      check_values(unit);
      return schedule_.after_forward(unit, event.recorded);
    case Event::read:
      check_values(unit);
      schedule_.read(unit);
      break;
    case Event::before_backward:
      check_values(unit);
      schedule_.before_backward(unit, *event.use);
      break;
    case Event::gradients_complete:
      // Frozen parameters may still be needed to pass gradients through.
      if (!unit.has_frozen()) schedule_.backward_done(unit);
      reducer_.begin(unit);
      reducer_.complete(unit);
      break;
  }
  return nullptr;
}

void Engine::on_gradient(Unit& unit) {
  check(in_backward_, kNotOurs);
  if (--missing_[&unit] == 0) note({Event::gradients_complete, &unit, true});
}

// Called when a gradient has no memory yet. This can happen before backward reaches the unit's
// output: a parameter, or an extra value of the unit, was read after the unit's forward pass.
void Engine::on_first_gradient(Unit& unit, const Parameter& p) {
  check(in_backward_, kNotOurs);
  check(!reducer_.begun(unit), "[fsdp] a gradient of parameter '", p.name(),
        "' arrived when those of unit '", unit.name(),
        "' were complete: backward() must not run within backward()");
  reducer_.begin(unit);
}

// Called when a parameter is read while its unit is not in use. A read within a micro-batch happens
// on all ranks, so the unit may be gathered; at other times that is not certain.
void Engine::on_read(Unit& unit) {
  if (in_backward_ || schedule_.in_forward() || log_.has_open_passes())
    note({Event::read, &unit, in_backward_});
  else
    schedule_.peek(unit);
}

void Engine::fail(const std::string& message) {
  mesh_.abort(message);
  throw UsageError(message);
}

}  // namespace lockstep::fsdp
