#include "train/run/trainer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "checkpoint/format/digest.h"
#include "comm/text.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/clip.h"
#include "core/trace/trace.h"
#include "train/parallel/offload.h"
#include "train/run/same_config.h"

namespace lockstep::train {
namespace {

constexpr trace::Kind kStep{"step", "step", {{{"step"}}}};
constexpr trace::Kind kForward{"phase", "forward", {{{"micro"}}}};
constexpr trace::Kind kBackward{"phase", "backward", {{{"micro"}}}};
constexpr trace::Kind kData{"phase", "data", {{{"micro"}}}};
constexpr trace::Kind kFinish{"phase", "finish gradients"};
constexpr trace::Kind kNorm{"phase", "gradient norm"};
constexpr trace::Kind kOptimizer{"phase", "optimizer"};
constexpr trace::Kind kEvaluate{"phase", "evaluate"};

// A span's one value.
auto about(int64_t value) {
  return [value] { return trace::About{.values = {value}}; };
}

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

// Why no step of the run can be recorded, as far as known before the first one.
std::string why_not_recorded(const Config& config, const comm::ProcessGroup& group, bool adapted) {
  if (group.device() == kCpu) return "the CPU does its work when it is called";
  if (config.train.capture == CaptureKind::off) return "train.capture is off";
  if (group.size() > 1)
    return "several ranks, whose calls are compared on the host before they are queued";
  if (config.parallel.strategy == StrategyKind::fsdp)
    return "parallel.strategy fsdp, which gives weights their memory anew in each step";
  if (adapted) return "hooks that a program may have added, which would run once";
  return "";
}

// Copies values to `place`, which keeps its memory as long as their shape is the same.
void put(const Tensor& values, Tensor& place) {
  if (!place.defined() || place.shape() != values.shape() || place.dtype() != values.dtype()) {
    const MemoryScope category(MemoryCategory::buffers);
    place = Tensor::empty(values.shape(), values.dtype(), values.device());
  }
  place.copy_(values);
}

const void* gradient_of(const Parameter& p) {
  return p.grad_buffer().defined() ? p.grad_buffer().raw() : nullptr;
}

// Adds the time of a call to a sum.
class Timed {
 public:
  explicit Timed(Duration& sum) : sum_(sum) {}
  ~Timed() { sum_ += Clock::now() - begin_; }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  Duration& sum_;
  const Clock::time_point begin_ = Clock::now();
};

// The numbers of a rank's note: data, compute, wait.
constexpr size_t kTimes = 3;

std::vector<RankTimes> times_of_ranks(const std::vector<float>& notes) {
  std::vector<RankTimes> ranks;
  for (size_t i = 0; i + kTimes <= notes.size(); i += kTimes)
    ranks.push_back({notes[i], notes[i + 1], notes[i + 2]});
  return ranks;
}

bool is_finite(const StepReport& report) {
  return std::isfinite(report.loss) && std::isfinite(report.grad_norm);
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
  norm_.emplace(parameters_, strategy_->parameters(), device());
  numbers_.emplace(device());
  recorder_.emplace(device(), why_not_recorded(config_, *group_, adapt != nullptr));
  schedule_ = make_schedule(config_);
  if (config_.train.precision == Precision::fp16) {
    const MemoryScope category(MemoryCategory::buffers);
    scale_.emplace();
    scale_there_ = Tensor::empty({}, DType::f32, device());
    scale_state_ = Tensor::empty({3}, DType::i64);
    send_scale();
    note_scale();
  }
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

// Runs forward and backward over this rank's share of the step.
Losses Trainer::run_micro_batches(int64_t step, const BatchAt& batch_at,
                                  const int64_t* device_step) {
  const auto seed = static_cast<uint64_t>(config_.run.seed);
  const Progression leaves = strategy_->leaves();
  Losses losses(device(), static_cast<int64_t>(leaves.size()));
  for (const int64_t micro : leaves) {
    const nn::RandomScope random(RandomKey{.seed = seed,
                                           .step = static_cast<uint32_t>(step),
                                           .micro = static_cast<uint32_t>(micro),
                                           .device_step = device_step});
    const Variable loss = [&] {
      const Batch batch = batch_at(micro);
      const trace::Span span(kForward, about(micro));
      return loss_of(batch);
    }();
    {
      const trace::Span span(kBackward, about(micro));
      strategy_->backward(scale_ ? ops::mul(loss, Variable(scale_there_)) : loss);
    }
    losses.add(micro, loss.data());
  }
  return losses;
}

Batch Trainer::read_batch(int64_t step, int64_t micro, std::string& problem) {
  const trace::Span span(kData, about(micro));
  const Timed timed(reading_);
  return batch_or_blank([&] { return batches_->get(step, micro); }, problem);
}

// Reads the step's batches into the memory that recorded work reads.
void Trainer::read_into_place(int64_t step, std::string& problem) {
  size_t i = 0;
  for (const int64_t micro : strategy_->leaves()) {
    const Batch batch = read_batch(step, micro, problem);
    if (i == in_place_.size()) in_place_.emplace_back();
    put(batch.inputs, in_place_[i].inputs);
    put(batch.targets, in_place_[i++].targets);
  }
}

// Where a step's work finds what others made.
std::vector<const void*> Trainer::addresses() const {
  std::vector<const void*> all;
  for (const Parameter& p : parameters_) all.insert(all.end(), {p.data().raw(), gradient_of(p)});
  for (const Batch& batch : in_place_)
    all.insert(all.end(), {batch.inputs.raw(), batch.targets.raw()});
  return all;
}

// Reads the first batch of the step after this one, while the device computes.
void Trainer::prefetch(int64_t step) {
  const Timed timed(reading_);
  if (step < config_.train.steps) batches_->prefetch(step + 1, strategy_->leaves().front());
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

// Queues a step from its batches to its optimizer, whose kernel does what the numbers on the device
// say. A rank that had no data stops before the numbers if it is alone, and else makes them refuse
// the step on all ranks.
void Trainer::queue_step(int64_t step, const BatchAt& batch_at, const std::string& problem) {
  std::optional<Losses> losses;
  {
    ops::PrecisionScope precision(compute_dtype_);  // weights are converted once a step
    losses = run_micro_batches(step, batch_at,
                               device() == kCpu ? nullptr : &numbers_->on_device()->run_step);
    const trace::Span span(kFinish);
    strategy_->finish();
    share_buffers(buffers_, *group_);
  }
  const bool alone = group_->size() == 1;
  if (alone && !problem.empty()) return;
  const trace::Span span(kOptimizer);
  const Tensor& own = norm_->blocks().sums();
  const Tensor sums =
      alone || !strategy_->forwards_together() ? own : sum_over_ranks(own, comm::ReduceOp::bor);
  const Tensor values =
      alone ? losses->values()
            : sum_over_ranks(losses->among(config_.train.micro_batches(), !problem.empty()),
                             comm::ReduceOp::sum);
  kernels(device()).close_step(current_queue(device()),
                               {.square_sums = static_cast<const double*>(sums.raw()),
                                .blocks = sums.numel(),
                                .losses = values.data<float>(),
                                .leaves = values.numel(),
                                .numbers = numbers_->on_device()});
  // The host goes on while the optimizer runs. A recorded step has no such point.
  if (!Capture::active()) numbers_->fetch();
  optimizer_->step(*numbers_);
  optimizer_->zero_grad();
}

// A copy: what other ranks hold is 0 in the tensor, and stays so.
Tensor Trainer::sum_over_ranks(const Tensor& tensor, comm::ReduceOp op) {
  const MemoryScope category(MemoryCategory::buffers);
  Tensor sum = tensor.clone();
  group_->all_reduce(sum, {.op = op}).wait();
  return sum;
}

// The device has all that a step's numbers need, or gets it from other ranks without the host. It
// decides by itself whether the optimizer may change anything, and the host reads the numbers once
// all is queued.
StepFlags Trainer::step_on_device(const StepFlags& wishes, StepReport& report,
                                  std::string& problem) {
  const bool records = recorder_->prevented().empty(), alone = group_->size() == 1;
  if (records) read_into_place(report.step, problem);
  const auto no_data = [&] { return StepFlags{wishes.stop, wishes.save, /*no_data=*/true}; };
  if (alone && !problem.empty()) return no_data();
  numbers_->send({.max_norm = config_.train.grad_clip,
                  .step = optimizer_->steps() + 1,
                  .run_step = report.step,
                  .lr = static_cast<float>(report.lr),
                  .unscale = scale_ ? scale_->unscale() : 1.0f});
  const int64_t first = strategy_->leaves().front();
  recorder_->run({.queue =
                      [&] {
                        queue_step(
                            report.step,
                            [&](int64_t micro) {
                              return records ? in_place_[static_cast<size_t>(micro - first)]
                                             : read_batch(report.step, micro, problem);
                            },
                            problem);
                      },
                  .take_back = [&] { optimizer_->forget_step(); },
                  .count = [&] { optimizer_->count_step(); },
                  .addresses = records ? addresses() : std::vector<const void*>()});
  if (alone && !problem.empty()) return no_data();
  if (recorder_->launched()) numbers_->fetch();
  prefetch(report.step);
  const StepNumbers numbers = numbers_->read();  // the only wait for the device
  if (!numbers.apply) optimizer_->forget_step();
  report.comm_exposed_ms = milliseconds(strategy_->exposed_communication());
  // The flags meet last. If any call of the step failed, this group has ended and throws: the step
  // does not count.
  const StepFlags flags =
      alone ? wishes : agreed({wishes.stop, wishes.save, !problem.empty()}, *group_);
  report.grad_norm = numbers.norm;
  report.loss =
      static_cast<double>(numbers.loss) / static_cast<double>(config_.train.micro_batches());
  return flags;
}

// Sums over ranks meet on the host, which then knows all numbers before it queues the optimizer.
StepFlags Trainer::step_on_host(const StepFlags& wishes, StepReport& report, std::string& problem) {
  const StepFlags flags = compute_gradients(wishes, report, problem);
  const trace::Span span(kOptimizer);
  if (!flags.no_data && is_finite(report))
    optimizer_->step(static_cast<float>(report.lr),
                     optim::clip_scale(report.grad_norm, config_.train.grad_clip) *
                         (scale_ ? scale_->unscale() : 1.0f));
  optimizer_->zero_grad();
  return flags;
}

// Leaves the summed gradients in the parameters, and fills in the report's numbers. Returns the
// wishes of all ranks.
StepFlags Trainer::compute_gradients(const StepFlags& wishes, StepReport& report,
                                     std::string& problem) {
  std::optional<Losses> losses;
  std::optional<LeafSum> sum;
  const auto add_up = [&] {
    sum.emplace(losses->read(), config_.train.micro_batches(),
                StepFlags{wishes.stop, wishes.save, !problem.empty()}, *group_,
                note_of_times(report.step));
  };
  {
    ops::PrecisionScope precision(compute_dtype_);  // weights are converted once a step
    losses = run_micro_batches(
        report.step, [&](int64_t micro) { return read_batch(report.step, micro, problem); });
    losses->send();
    prefetch(report.step);
    // A CPU has its losses by now: their sum travels while gradients are still reduced.
    if (device() == kCpu) add_up();
    const trace::Span span(kFinish);
    strategy_->finish();
    share_buffers(buffers_, *group_);
  }
  // This waits for the device, and so for the losses. A step has no other wait.
  report.grad_norm = grad_norm();
  if (!sum) add_up();
  report.comm_exposed_ms = milliseconds(strategy_->exposed_communication());
  {
    const Timed timed(waiting_);
    sum->sum();
  }
  report.loss =
      static_cast<double>(sum->sum()) / static_cast<double>(config_.train.micro_batches());
  report.ranks = times_of_ranks(sum->notes());
  return sum->flags();
}

// Every few steps, what the other ranks learn of this rank's times. All ranks send one in the same
// steps.
std::vector<float> Trainer::note_of_times(int64_t step) const {
  if (step % StepTimes::kWindow != 0) return {};
  const RankTimes mean = times_.mean();
  return {static_cast<float>(mean.data_ms), static_cast<float>(mean.compute_ms),
          static_cast<float>(mean.wait_ms)};
}

StepReport Trainer::step(const StepFlags& wishes) {
  const auto start = Clock::now();
  const trace::Span span(kStep, about(steps_done_ + 1));
  refused_ = Refused::no;
  check_same_frozen();
  if (!same_ && group_->size() > 1 && config_.parallel.check_every > 0)
    same_.emplace(strategy_->held(), *group_, steps_done_);
  reading_ = waiting_ = {};
  StepReport report;
  report.step = steps_done_ + 1;
  report.lr = static_cast<double>(optim::lr_at(schedule_, report.step));
  BufferRollback buffers(buffers_);
  std::string problem;
  const bool on_device = group_->size() == 1 || group_->queues();
  const StepFlags flags =
      on_device ? step_on_device(wishes, report, problem) : step_on_host(wishes, report, problem);
  report.stop_agreed = flags.stop;
  report.save_agreed = flags.save;
  if (flags.no_data) {
    optimizer_->zero_grad();
    refuse_without_data(str("step ", report.step), problem);
  }
  report.skipped = skips(report);
  if (!is_finite(report) && !report.skipped) {
    refused_ = Refused::not_finite;
    throw EnvironmentError(str("step ", report.step, ": the loss is ", report.loss,
                               " and the gradient norm ", report.grad_norm,
                               "; the weights are still those after step ", steps_done_,
                               ". Lower optim.lr, lengthen optim.schedule.warmup or set "
                               "train.grad_clip, and resume from a checkpoint"));
  }
  buffers.keep();
  steps_done_ = report.step;
  report.step_ms = milliseconds(Clock::now() - start);
  const double reading = milliseconds(reading_),
               waiting = milliseconds(waiting_) + report.comm_exposed_ms;
  times_.add({.data_ms = reading,
              .compute_ms = std::max(0.0, report.step_ms - reading - waiting),
              .wait_ms = waiting});
  return report;
}

void Trainer::check_weights() {
  if (!same_ || checked_step_ == steps_done_) return;
  same_->check(strategy_->held(), steps_done_);
  checked_step_ = steps_done_;
}

// The norm over the blocks of all parameters, each from the rank that owns it.
double Trainer::grad_norm() {
  const trace::Span span(kNorm);
  optim::NormBlocks& blocks = norm_->blocks();
  if (strategy_->forwards_together()) {
    const Timed timed(waiting_);
    group_->host().all_reduce(blocks.bits(), {.op = comm::ReduceOp::bor}).wait();
  }
  return blocks.norm() * (scale_ ? static_cast<double>(scale_->unscale()) : 1.0);
}

bool Trainer::skips(const StepReport& report) {
  if (!scale_) return false;
  const float before = scale_->factor();
  bool skipped = false;
  if (is_finite(report))
    scale_->succeeded();
  else if (std::isfinite(report.loss))
    skipped = scale_->overflowed();
  if (scale_->factor() != before) send_scale();
  note_scale();
  return skipped;
}

// Recorded work finds the factor in the same place.
void Trainer::send_scale() { scale_there_.copy_(Tensor::full({}, scale_->factor(), DType::f32)); }

void Trainer::note_scale() {
  const auto& [power, steady, skipped] = scale_->state();
  scale_state_.copy_(Tensor::from(std::vector<int64_t>{power, steady, skipped}, {3}));
}

double Trainer::evaluate() {
  const trace::Span span(kEvaluate);
  try {
    return evaluate_once();
  } catch (const EnvironmentError&) {
    // The memory of a recorded step may be what is missing. Only a single rank has one.
    if (refused_ != Refused::no || !recorder_->forget()) throw;
  }
  return evaluate_once();
}

double Trainer::evaluate_once() {
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
  if (scale_)
    state.push_back({"optim.gradient_scale", scale_state_, ShardSpec::whole(scale_state_.shape())});
  for (const auto& [name, tensor] : optimizer_->state())  // "<state>.<parameter>"
    state.push_back({"optim." + name, tensor, strategy_->shard(name.substr(name.find('.') + 1))});
  return state;
}

void Trainer::set_steps_done(int64_t steps) {
  steps_done_ = steps;
  int64_t skipped = 0;
  if (scale_) {
    const auto saved = scale_state_.to_vector<int64_t>();
    scale_->set_state({saved[0], saved[1], saved[2]});
    send_scale();
    skipped = saved[2];
  }
  optimizer_->set_steps(steps - skipped, {});  // each other step gives every parameter a gradient
  strategy_->values_changed();
}

std::string Trainer::weights_sha256() const {
  checkpoint::WeightsDigest digest;
  strategy_->for_each_whole(
      [&](const std::string& name, const Tensor& whole) { digest.add(name, whole); });
  return digest.hex();
}

}  // namespace lockstep::train
