// Strategy: how ranks share the work. It hides the differences between DDP and FSDP from a trainer,
// its optimizer and its checkpoints.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/process_group.h"
#include "core/autograd/variable.h"
#include "core/base/clock.h"
#include "core/base/progression.h"
#include "core/tensor/shard_spec.h"
#include "fsdp/options.h"
#include "train/config/config.h"
#include "train/metrics/memory_report.h"
#include "train/models/factory.h"

namespace lockstep::train {

// A tensor of a trainer's state under its global name, and the part of the whole that it holds.
struct StatePart {
  std::string name;
  Tensor values;
  ShardSpec shard;
};

class Strategy {
 public:
  virtual ~Strategy() = default;

  // The micro-batches of a step that this rank computes, in this order.
  virtual Progression leaves() const = 0;
  // Differentiates one micro-batch's mean loss, weighted 1/V. After the last one, finish() waits
  // for the sum over all ranks.
  virtual void backward(const Variable& loss) = 0;
  virtual void finish() = 0;

  // What this rank updates: whole parameters or flat slices of them, under their full names,
  // without frozen ones.
  virtual const std::vector<Parameter>& parameters() const = 0;
  // Everything that this rank holds of the model's parameters, with frozen ones. A checkpoint holds
  // these values.
  virtual std::vector<StatePart> held() const = 0;
  // The part of the named parameter that this rank holds. Its optimizer states have the same part.
  virtual ShardSpec shard(const std::string& name) const = 0;
  // Call it after anything but the optimizer changed held().
  virtual void values_changed() = 0;

  // Collective. Calls use(name, whole) on every rank for all parameters of the model, in the order
  // of their names. `whole` is valid until use() returns.
  virtual void for_each_whole(
      const std::function<void(const std::string& name, const Tensor& whole)>& use) = 0;

  // Whether forward passes communicate. All ranks must then make the same number of them.
  virtual bool forwards_together() const = 0;
  // Sets the parts of a rank's memory that are known before a step runs: parameters, gathered
  // parameters, gradients.
  virtual void plan_memory(MemoryBound& bound) const = 0;
  // Communication of the last step that compute did not hide.
  virtual Duration exposed_communication() const = 0;
};

// Collective. Throws UsageError if the model or the ranks do not fit `parallel`.
std::unique_ptr<Strategy> make_strategy(const Config& config, const BuiltModel& model,
                                        std::shared_ptr<comm::ProcessGroup> group);

// For people: "ddp"; "fsdp, shard hybrid [2, 2]".
std::string strategy_text(const ParallelConfig& parallel);

// The FSDP options that `parallel` and `train` ask for, for this model.
fsdp::Options fsdp_options(const Config& config, const nn::Module& module);

// Each in its own file. `single` is ddp with one rank.
std::unique_ptr<Strategy> make_ddp_strategy(const Config& config, const BuiltModel& model,
                                            std::shared_ptr<comm::ProcessGroup> group);
std::unique_ptr<Strategy> make_fsdp_strategy(const Config& config, const BuiltModel& model,
                                             std::shared_ptr<comm::ProcessGroup> group);

}  // namespace lockstep::train
