#include "train/trainer.h"

#include <cmath>
#include <optional>

#include "checkpoint/digest.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/clip.h"
#include "ddp/ddp.h"
#include "train/leaf_sums.h"
#include "train/offload.h"
#include "train/same_config.h"

namespace lockstep::train {
namespace {

std::unique_ptr<optim::Optimizer> make_optimizer(const OptimConfig& config, const std::vector<Parameter>& parameters) {
  const auto decay = static_cast<float>(config.weight_decay);
  if (config.kind == "sgd")
    return optim::make_sgd(parameters,
                           {.momentum = static_cast<float>(config.momentum), .weight_decay = decay, .decays = optim::decay_matrices});
  const optim::AdamOptions adam{.beta1 = static_cast<float>(config.betas.at(0)),
                                .beta2 = static_cast<float>(config.betas.at(1)),
                                .eps = static_cast<float>(config.eps),
                                .weight_decay = decay};
  return config.kind == "adam" ? optim::make_adam(parameters, adam) : optim::make_adamw(parameters, adam);
}

optim::Schedule make_schedule(const Config& config) {
  const ScheduleConfig& s = config.optim.schedule;
  using Kind = optim::Schedule::Kind;
  return {.kind = s.kind == "cosine"   ? Kind::cosine
                  : s.kind == "linear" ? Kind::linear
                                       : Kind::constant,
          .lr = static_cast<float>(config.optim.lr),
          .min_lr = static_cast<float>(s.min_lr),
          .warmup = s.warmup,
          .steps = config.train.steps};
}

std::unique_ptr<ddp::DistributedDataParallel> make_ddp(const Config& config, const BuiltModel& model,
                                                       const std::shared_ptr<comm::ProcessGroup>& group) {
  const auto bytes = static_cast<int64_t>(config.parallel.bucket_mb * (1 << 20));
  return std::make_unique<ddp::DistributedDataParallel>(
      model.module->parameters(), model.module->buffers(), group,
      ddp::Options{
          .micro_batches = config.train.micro_batches(), .first_bucket_bytes = std::min<int64_t>(bytes, 1 << 20), .bucket_bytes = bytes});
}

}  // namespace

Trainer::Trainer(const Config& config, std::shared_ptr<comm::ProcessGroup> group)
    : config_(config), group_(std::move(group)), compute_dtype_(config.train.precision == "bf16" ? DType::bf16 : DType::f32) {
  check_world_size(config_, group_->size());
  check_same_config(config_, *group_);
  allocator(kCpu).set_limit(config_.train.memory_limit_mb << 20);
  data_ = open_dataset(config_);
  model_ = build_model(config_);
  parameters_ = model_.module->parameters();
  ddp_ = make_ddp(config_, model_, group_);
  {
    std::optional<StorageScope> files;
    if (config_.parallel.offload) files.emplace(offload_to(config_.run.dir));
    optimizer_ = make_optimizer(config_.optim, parameters_);
  }
  schedule_ = make_schedule(config_);
}

Trainer::~Trainer() = default;

Variable Trainer::loss_of(const Batch& batch) const { return ops::cross_entropy((*model_.module)(Variable(batch.inputs)), batch.targets); }

// Forward and backward over this rank's share of the step; returns the losses.
std::vector<float> Trainer::run_micro_batches(int64_t step) {
  const auto seed = static_cast<uint64_t>(config_.run.seed);
  std::vector<float> losses;
  for (int64_t micro = ddp_->tree().begin(group_->rank()); micro < ddp_->tree().begin(group_->rank() + 1); ++micro) {
    nn::RandomScope random(seed, static_cast<uint32_t>(step), static_cast<uint32_t>(micro));
    const Variable loss = loss_of(data_->get(step, micro));
    ddp_->backward(loss);
    losses.push_back(static_cast<float>(loss.item()));
  }
  return losses;
}

StepReport Trainer::step(bool ask_to_stop) {
  const auto start = Clock::now();
  StepReport report;
  report.step = steps_done_ + 1;
  {
    ops::PrecisionScope precision(compute_dtype_);  // weights are converted once a step
    const std::vector<float> losses = run_micro_batches(report.step);
    LeafSum loss(losses, ask_to_stop ? 1.0f : 0.0f, *group_, ddp_->tree());
    ddp_->finish();
    report.loss = static_cast<double>(loss.sum()) / static_cast<double>(ddp_->tree().leaves());
    report.stop_agreed = loss.flags() > 0;
  }
  report.comm_exposed_ms = milliseconds(ddp_->exposed_communication());
  report.grad_norm = optim::grad_norm(parameters_);
  report.lr = static_cast<double>(optim::lr_at(schedule_, report.step));
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm))
    throw EnvironmentError(
        str("step ", report.step, ": the loss is ", report.loss, " and the gradient norm ", report.grad_norm,
            "; the weights were left as they were after step ", steps_done_,
            ". Lower optim.lr, lengthen optim.schedule.warmup or set train.grad_clip, and resume from the last checkpoint"));
  optimizer_->step(static_cast<float>(report.lr), optim::clip_scale(report.grad_norm, config_.train.grad_clip));
  optimizer_->zero_grad();
  steps_done_ = report.step;
  report.step_ms = milliseconds(Clock::now() - start);
  return report;
}

double Trainer::evaluate() {
  const int64_t batches = config_.train.eval_batches;
  const int ranks = group_->size();
  // With fewer batches than ranks the first ranks compute one each, and the others add nothing (x + 0 has the bits of x).
  const comm::ReduceTree tree(std::max<int64_t>(batches, ranks), ranks);
  NoGradGuard no_grad;
  ops::PrecisionScope precision(compute_dtype_);
  model_.module->train(false);
  std::vector<float> losses;
  for (int64_t i = tree.begin(group_->rank()); i < tree.begin(group_->rank() + 1); ++i)
    losses.push_back(i < batches ? static_cast<float>(loss_of(data_->evaluation(i)).item()) : 0.0f);
  model_.module->train(true);
  return static_cast<double>(LeafSum(losses, 0, *group_, tree).sum()) / static_cast<double>(batches);
}

int64_t Trainer::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.data().numel();
  return count;
}

std::vector<std::pair<std::string, Tensor>> Trainer::state() const {
  std::vector<std::pair<std::string, Tensor>> state;
  for (const Parameter& p : parameters_) state.emplace_back(p.name(), p.data());
  for (const auto& [name, tensor] : optimizer_->state()) state.emplace_back("optim." + name, tensor);
  return state;
}

void Trainer::set_steps_done(int64_t steps) {
  steps_done_ = steps;
  optimizer_->set_steps(steps);
}

std::string Trainer::weights_sha256() const {
  std::vector<std::pair<std::string, Tensor>> weights;
  for (const Parameter& p : parameters_) weights.emplace_back(p.name(), p.data());
  return checkpoint::weights_sha256(weights);
}

}  // namespace lockstep::train
