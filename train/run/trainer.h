// Trainer: one training run's state on this rank (model, optimizer, data) and one step of it.
// train/run/loop.h has what a run does around its steps (metrics, checkpoints, stopping).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/process_group.h"
#include "core/device/step_recorder.h"
#include "core/optim/clip.h"
#include "core/optim/gradient_scale.h"
#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"
#include "train/config/config.h"
#include "train/data/data_identity.h"
#include "train/data/dataset.h"
#include "train/data/device_batches.h"
#include "train/metrics/devices.h"
#include "train/metrics/stragglers.h"
#include "train/models/factory.h"
#include "train/parallel/same_weights.h"
#include "train/parallel/strategy.h"
#include "train/run/buffers.h"
#include "train/run/leaf_sums.h"

namespace lockstep::train {

struct StepReport {
  int64_t step = 0;  // counts from 1
  // Mean over the step's micro-batches: nats per token, or per sample if there are no tokens.
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double step_ms = 0;
  double comm_exposed_ms = 0;
  // Some rank asked to stop after this step, or to save.
  bool stop_agreed = false, save_agreed = false;
  // train.precision fp16: gradients overflowed, so the step changed no weights (GradientScale).
  bool skipped = false;
  // The times of all ranks in the steps before this one, every StepTimes::kWindow steps. Else
  // empty.
  std::vector<RankTimes> ranks = {};
};

// Why step() or evaluate() threw on all ranks alike. All ranks then hold the complete state of
// steps_done(), which can be saved.
enum class Refused : uint8_t {
  no,         // it did not throw, or the state is unreliable
  no_data,    // a rank's data changed or cannot be read
  not_finite  // the loss or the gradients
};

class Trainer {
 public:
  // Collective: every rank of `group` builds one from the same config. Model, gradients and
  // optimizer states are on the group's device, which config() names from here on. Throws
  // UsageError for a config that differs between ranks or does not fit their number. `adapt`
  // changes the model before it is spread over ranks, the same on all of them: freezes parameters
  // (set_requires_grad), adds hooks, or gives some other initial values (set_initializer; with fsdp
  // they have no memory yet). Freezing or unfreezing later is refused by step(): optimizer and
  // checkpoints hold what was trained at first.
  using Adapt = std::function<void(nn::Module&)>;
  Trainer(const Config& config, std::shared_ptr<comm::ProcessGroup> group, const Adapt& adapt = {});
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Runs the next step. After it, all ranks have rank 0's buffers. `wishes`: this rank wants the
  // run to end here, or to be saved; all ranks learn of it in the same step. Throws
  // EnvironmentError naming the step where a rank has no data, or where loss or gradients are not
  // finite. The weights are as before then: refused() is set, and the step may be tried again.
  StepReport step(const StepFlags& wishes = {});
  // Collective. Throws as SameWeights::check() if replicas of the weights differ after this step.
  // The state is then not worth saving. Does nothing if parallel.check_every is 0, no rank has a
  // replica on another, or this step was checked.
  void check_weights();
  // Mean validation loss over the config's evaluation batches; the same bits for any number of
  // ranks. Leaves buffers as they were. Throws as step() where a rank has no data.
  double evaluate();
  // Result of the last step() or evaluate().
  Refused refused() const { return refused_; }

  int64_t steps_done() const { return steps_done_; }
  const Config& config() const { return config_; }
  comm::ProcessGroup& group() { return *group_; }
  Device device() const { return group_->device(); }
  const Devices& devices() const { return devices_; }  // of all ranks
  // How steps reach the device (train.capture).
  const StepRecorder& recorder() const { return *recorder_; }
  const Dataset& data() const { return *data_; }
  // Collective at its first call.
  DataIdentity& data_identity();
  const BuiltModel& model() const { return model_; }
  int64_t parameter_count() const;
  double flops_per_step() const {
    return model_.flops_per_sample * static_cast<double>(config_.train.global_batch);
  }
  int64_t items_per_step() const { return model_.items_per_sample * config_.train.global_batch; }

  // The bytes that a step may take on this rank, by category, as far as known before it runs.
  MemoryBound memory_bound() const;

  // What a checkpoint holds: parameters under their names, frozen ones included, buffers under
  // theirs, and optimizer states as "optim.<state>.<parameter>"; of each the part that this rank
  // has.
  std::vector<StatePart> state() const;
  // Call once state()'s tensors hold the values of that step.
  void set_steps_done(int64_t steps);
  // Collective. SHA-256 over the full parameters in name order.
  std::string weights_sha256() const;

 private:
  void check_same_frozen() const;
  Variable loss_of(const Batch& batch) const;
  // If `get` fails, `problem` gets its message and the batch is blank: the other ranks need this
  // one's part in the step.
  Batch batch_or_blank(const std::function<Batch()>& get, std::string& problem);
  using BatchAt = std::function<Batch(int64_t micro)>;
  // `device_step`: the step's number in memory of the device, or null.
  Losses run_micro_batches(int64_t step, const BatchAt& batch_at,
                           const int64_t* device_step = nullptr);
  Batch read_batch(int64_t step, int64_t micro, std::string& problem);
  double evaluate_once();
  void read_into_place(int64_t step, std::string& problem);
  std::vector<const void*> addresses() const;
  void queue_step(int64_t step, const BatchAt& batch_at, const std::string& problem);
  void prefetch(int64_t step);
  // Each runs a step with its optimizer, and fills in the report's numbers. Returns the wishes of
  // all ranks. The weights are as before unless loss and norm are finite and all ranks have data.
  StepFlags step_on_device(const StepFlags& wishes, StepReport& report, std::string& problem);
  StepFlags step_on_host(const StepFlags& wishes, StepReport& report, std::string& problem);
  StepFlags compute_gradients(const StepFlags& wishes, StepReport& report, std::string& problem);
  // Collective. Throws what the ranks without data reported.
  void refuse_without_data(const std::string& doing, const std::string& problem);
  double grad_norm();
  Tensor sum_over_ranks(const Tensor& tensor, comm::ReduceOp op);
  std::vector<float> note_of_times(int64_t step) const;
  void send_scale();
  void note_scale();
  // Whether the step's gradients overflowed and another scale may help: then it is skipped.
  bool skips(const StepReport& report);

  Config config_;
  std::shared_ptr<comm::ProcessGroup> group_;
  std::unique_ptr<Dataset> data_;
  std::unique_ptr<DeviceBatches> batches_;  // of data_
  Devices devices_;
  BuiltModel model_;
  std::vector<Parameter> parameters_;  // the model's
  std::vector<bool> trained_;          // of these
  NamedTensors buffers_;               // the model's
  std::unique_ptr<Strategy> strategy_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  std::optional<optim::GradNorm> norm_;
  std::optional<optim::StepNumbersOn> numbers_;
  std::optional<StepRecorder> recorder_;
  std::optional<optim::GradientScale> scale_;  // fp16
  Tensor scale_there_;                         // f32 [], on the device: its factor
  Tensor scale_state_;           // i64 [3] on the CPU: its state as it is saved and restored
  std::vector<Batch> in_place_;  // the step's batches, at the same addresses in every step
  optim::Schedule schedule_;
  DType compute_dtype_;
  int64_t steps_done_ = 0;
  Refused refused_ = Refused::no;
  std::unique_ptr<DataIdentity> identity_;  // of data_
  std::optional<SameWeights> same_;         // from the first step on
  int64_t checked_step_ = -1;
  StepTimes times_;
  Duration reading_{}, waiting_{};  // in this step: for data, and for other ranks
};

}  // namespace lockstep::train
