#include "train/run/trainer.h"

#include <cmath>
#include <optional>

#include "checkpoint/format/digest.h"
#include "comm/text.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/clip.h"
#include "train/parallel/offload.h"
#include "train/run/same_config.h"

namespace lockstep::train {
namespace {

// `updated`: the parameters to update, whole or as slices.
std::unique_ptr<optim::Optimizer> make_optimizer(const OptimConfig& config,
                                                 const std::vector<Parameter>& updated) {
  const auto decay = static_cast<float>(config.weight_decay);
  const optim::DecayRule decays = optim::decay_matrices;
  if (config.kind == OptimKind::sgd)
    return optim::make_sgd(
        updated,
        {.momentum = static_cast<float>(config.momentum), .weight_decay = decay, .decays = decays});
  const optim::AdamOptions adam{.beta1 = static_cast<float>(config.betas.at(0)),
                                .beta2 = static_cast<float>(config.betas.at(1)),
                                .eps = static_cast<float>(config.eps),
                                .weight_decay = decay,
                                .decays = decays};
  return config.kind == OptimKind::adam ? optim::make_adam(updated, adam)
                                        : optim::make_adamw(updated, adam);
}

optim::Schedule make_schedule(const Config& config) {
  const ScheduleConfig& s = config.optim.schedule;
  using Kind = optim::Schedule::Kind;
  return {.kind = s.kind == ScheduleKind::cosine   ? Kind::cosine
                  : s.kind == ScheduleKind::linear ? Kind::linear
                                                   : Kind::constant,
          .lr = static_cast<float>(config.optim.lr),
          .min_lr = static_cast<float>(s.min_lr),
          .warmup = s.warmup,
          .steps = config.train.steps};
}

}  // namespace

Trainer::Trainer(const Config& config, std::shared_ptr<comm::ProcessGroup> group,
                 const Adapt& adapt)
    : config_(config), group_(std::move(group)), compute_dtype_(dtype_of(config.train.precision)) {
  config_.device = device() == kCpu ? DeviceKind::cpu : DeviceKind::cuda;
  check_world_size(config_, group_->size());
  check_same_config(config_, *group_);
  devices_ = devices_of(*group_);
  allocator(device()).set_limit(config_.train.memory_limit_mb * 1'000'000);
  const DeviceScope scope(device());
  data_ = open_dataset(config_);
  batches_ = std::make_unique<DeviceBatches>(*data_, device());
  // The owners of sharded values draw them, so no rank ever holds the whole model.
  model_ =
      build_model(config_, config_.parallel.strategy == StrategyKind::fsdp ? InitialValues::deferred
                                                                           : InitialValues::drawn);
  if (adapt) adapt(*model_.module);
  parameters_ = model_.module->parameters();
  for (const Parameter& p : parameters_) trained_.push_back(p.requires_grad());
  check_entry_names(*model_.module);
  buffers_ = model_.module->buffers();
  strategy_ = make_strategy(config_, model_, group_);
  {
    std::optional<StorageScope> files;
    if (config_.parallel.offload) files.emplace(offload_to(config_.run.dir));
    optimizer_ = make_optimizer(config_.optim, strategy_->parameters());
  }
  schedule_ = make_schedule(config_);
}

Trainer::~Trainer() = default;

Variable Trainer::loss_of(const Batch& batch) const {
  return ops::cross_entropy((*model_.module)(Variable(batch.inputs)), batch.targets);
}

Batch Trainer::batch_or_blank(const std::function<Batch()>& get, std::string& problem) {
  if (!problem.empty()) return batches_->blank();
  try {
    return get();
  } catch (const EnvironmentError& e) {
    problem = e.what();
    return batches_->blank();
  }
}

// Runs forward and backward over this rank's share of the step. Meanwhile it reads the first batch
// of the next step.
Losses Trainer::run_micro_batches(int64_t step, std::string& problem) {
  const auto seed = static_cast<uint64_t>(config_.run.seed);
  const Progression leaves = strategy_->leaves();
  Losses losses(device(), static_cast<int64_t>(leaves.size()));
  for (const int64_t micro : leaves) {
    nn::RandomScope random(seed, static_cast<uint32_t>(step), static_cast<uint32_t>(micro));
    const Variable loss =
        loss_of(batch_or_blank([&] { return batches_->get(step, micro); }, problem));
    strategy_->backward(loss);
    losses.add(micro, loss.data());
  }
  losses.send();
  if (step < config_.train.steps) batches_->prefetch(step + 1, leaves.front());
  return losses;
}

void Trainer::refuse_without_data(const std::string& doing, const std::string& problem) {
  refused_ = Refused::no_data;
  comm::agree(group_.get(), [&] {
    if (!problem.empty()) throw EnvironmentError(str(doing, ": ", problem));
    return std::string();
  });
}

void Trainer::check_same_frozen() const {
  for (size_t i = 0; i < parameters_.size(); ++i)
    check(parameters_[i].requires_grad() == trained_[i], "[train] '", parameters_[i].name(),
          "' was ", trained_[i] ? "frozen" : "unfrozen",
          " after the trainer was made, whose optimizer and checkpoints do not follow: do it in "
          "`adapt` of a new trainer");
}

// Leaves the summed gradients in the parameters and fills in the report's numbers. Returns what the
// ranks together wish.
StepFlags Trainer::compute_gradients(const StepFlags& wishes, StepReport& report,
                                     std::string& problem) {
  std::optional<Losses> losses;
  std::optional<LeafSum> sum;
  const auto add_up = [&] {
    sum.emplace(losses->read(), config_.train.micro_batches(),
                StepFlags{wishes.stop, wishes.save, !problem.empty()}, *group_);
  };
  {
    ops::PrecisionScope precision(compute_dtype_);  // converts weights once a step
    losses = run_micro_batches(report.step, problem);
    // On a CPU the losses are known here, so their sum travels while gradients are still reduced.
    if (device() == kCpu) add_up();
    strategy_->finish();
    share_buffers(buffers_, *group_);
  }
  report.comm_exposed_ms = milliseconds(strategy_->exposed_communication());
  // This waits for the device, and so for the losses. A step has no other wait.
  report.grad_norm = grad_norm();
  if (!sum) add_up();
  report.loss =
      static_cast<double>(sum->sum()) / static_cast<double>(config_.train.micro_batches());
  return sum->flags();
}

StepReport Trainer::step(const StepFlags& wishes) {
  const auto start = Clock::now();
  refused_ = Refused::no;
  check_same_frozen();
  StepReport report;
  report.step = steps_done_ + 1;
  BufferRollback buffers(buffers_);
  std::string problem;
  const StepFlags flags = compute_gradients(wishes, report, problem);
  report.stop_agreed = flags.stop;
  report.save_agreed = flags.save;
  if (flags.no_data) {
    optimizer_->zero_grad();
    refuse_without_data(str("step ", report.step), problem);
  }
  report.lr = static_cast<double>(optim::lr_at(schedule_, report.step));
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    optimizer_->zero_grad();
    refused_ = Refused::not_finite;
    throw EnvironmentError(str("step ", report.step, ": the loss is ", report.loss,
                               " and the gradient norm ", report.grad_norm,
                               "; the weights are still those after step ", steps_done_,
                               ". Lower optim.lr, lengthen optim.schedule.warmup or set "
                               "train.grad_clip, and resume from a checkpoint"));
  }
  optimizer_->step(static_cast<float>(report.lr),
                   optim::clip_scale(report.grad_norm, config_.train.grad_clip));
  optimizer_->zero_grad();
  buffers.keep();
  steps_done_ = report.step;
  report.step_ms = milliseconds(Clock::now() - start);
  return report;
}

// The norm over the blocks of all parameters. The owner of a block computes its part.
double Trainer::grad_norm() const {
  return optim::grad_norm(parameters_, strategy_->parameters(), [this](const Tensor& bits) {
    if (strategy_->forwards_together())
      group_->host().all_reduce(bits, {.op = comm::ReduceOp::bor}).wait();
  });
}

double Trainer::evaluate() {
  const int64_t batches = config_.train.eval_batches;
  const int ranks = group_->size();
  refused_ = Refused::no;
  NoGradGuard no_grad;
  ops::PrecisionScope precision(compute_dtype_);
  const BufferRollback buffers(buffers_);
  model_.module->train(false);
  std::string problem;
  const auto loss_at = [&](int64_t i) {
    return loss_of(batch_or_blank([&] { return batches_->evaluation(i); }, problem));
  };
  Losses losses(device(), batches / ranks + 1);
  for (int64_t i = group_->rank(); i < batches; i += ranks) losses.add(i, loss_at(i).data());
  losses.send();
  // A rank without a batch in the last round must still take part in the others' forward pass.
  if (strategy_->forwards_together() && batches % ranks != 0 && group_->rank() >= batches % ranks)
    loss_at(0);
  model_.module->train(true);
  LeafSum loss(losses.read(), batches, {.no_data = !problem.empty()}, *group_);
  if (loss.flags().no_data)
    refuse_without_data(str("the evaluation after step ", steps_done_), problem);
  return static_cast<double>(loss.sum()) / static_cast<double>(batches);
}

DataIdentity& Trainer::data_identity() {
  if (!identity_) identity_ = std::make_unique<DataIdentity>(*data_, group_);
  return *identity_;
}

MemoryBound Trainer::memory_bound() const {
  MemoryBound bound;
  bound.fill(kUnplanned);
  strategy_->plan_memory(bound);
  int64_t states = 0;
  for (const auto& [name, tensor] : optimizer_->state()) states += tensor.bytes();
  bound[static_cast<size_t>(MemoryCategory::optimizer)] = config_.parallel.offload ? 0 : states;
  return bound;
}

int64_t Trainer::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.data().numel();
  return count;
}

std::vector<StatePart> Trainer::state() const {
  std::vector<StatePart> state = strategy_->held();
  for (const auto& [name, values] : buffers_)
    state.push_back({name, values, ShardSpec::whole(values.shape())});
  for (const auto& [name, tensor] : optimizer_->state())  // "<state>.<parameter>"
    state.push_back({"optim." + name, tensor, strategy_->shard(name.substr(name.find('.') + 1))});
  return state;
}

void Trainer::set_steps_done(int64_t steps) {
  steps_done_ = steps;
  optimizer_->set_steps(steps, {});  // each step gives every parameter a gradient
  strategy_->values_changed();
}

std::string Trainer::weights_sha256() const {
  checkpoint::WeightsDigest digest;
  strategy_->for_each_whole(
      [&](const std::string& name, const Tensor& whole) { digest.add(name, whole); });
  return digest.hex();
}

}  // namespace lockstep::train
