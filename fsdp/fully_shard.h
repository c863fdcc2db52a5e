// FullyShardedDataParallel: every rank holds a slice of the model – parameters, gradients,
// optimizer states – and gathers one unit of it at a time, while it computes its share of a step's
// micro-batches.
//
//   const auto sharded = fsdp::fully_shard(model, group);
//   const auto optimizer = optim::make_adamw(sharded->parameters());
//   for (each step) {
//     for (int64_t leaf : sharded->leaves()) sharded->backward(loss(micro-batch `leaf`));
//     sharded->finish();  // slices now hold the mean gradients over all micro-batches of all ranks
//     optimizer->step(lr);
//     optimizer->zero_grad();
//   }
//
// The model's own code does not change, and its modules keep their names. A unit's parameters are
// whole from the start of its module's forward() to its end, and again in backward. Other code may
// read them too, between the start of the model's forward pass and the end of backward(): the
// module around the unit, the loss. Such a read gathers the unit. All ranks must do it, and the
// unit then stays whole beyond `units_in_flight` until another unit's pass makes room. Gradients
// are right wherever a parameter was read. At any other time a read throws UsageError and names
// parameter and unit, unless the unit is still whole, with the values of now.
//
// The module's own parameters hold no gradients outside of backward: their grad() and has_grad()
// throw UsageError. This rank's slices, parameters(), hold them after finish(). No parameter may be
// frozen or unfrozen after sharding: the next backward() ends on all ranks with an error that names
// it.
//
// Gradients have the bits of DistributedDataParallel and of a single rank: they are summed in f32
// over the fixed tree of the step's V micro-batches (fsdp/mesh.h says who computes which).
//
// All ranks must run the same units in the same order. Where they do not, the next collective fails
// on all of them and names both calls.
//
// Sources: Rajbhandari et al., "ZeRO", SC 2020; Zhao et al., "PyTorch FSDP", VLDB 2023; Wang et
// al., "ZeRO++", 2023 (nearby). Thread-safety: one thread, the one that runs forward and backward.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/device_mesh.h"
#include "comm/process_group.h"
#include "core/base/clock.h"
#include "core/base/progression.h"
#include "core/nn/module.h"
#include "core/tensor/shard_spec.h"
#include "fsdp/options.h"

namespace lockstep::fsdp {

class Engine;

// What sharded training needs on one rank, in bytes where nothing else is said, known before it
// runs. Activations and optimizer states come on top: the former are the model's own, the latter a
// multiple of the trained slices.
struct MemoryPlan {
  // This rank's slices, and their copies in the dtype in which they are gathered.
  int64_t parameters = 0;
  int64_t gathered = 0;   // the most that is whole at a time: the root, and the largest units that
                          // may be there beside it
  int64_t gradients = 0;  // this rank's slices with the partial sums of a step, and the buffers in
                          // which units are differentiated
  int64_t trained = 0;    // elements that this rank updates: padding is none of them
};

class FullyShardedDataParallel {
 public:
  // Collective: see fully_shard().
  FullyShardedDataParallel(std::shared_ptr<nn::Module> module, const comm::DeviceMesh& mesh,
                           Options options);
  // The module stays sharded, and cannot be used any more: running it, reading its parameters, or
  // going backward through a graph that is left throws UsageError, on any number of ranks.
  ~FullyShardedDataParallel();
  FullyShardedDataParallel(const FullyShardedDataParallel&) = delete;
  FullyShardedDataParallel& operator=(const FullyShardedDataParallel&) = delete;

  // Which of the step's micro-batches this rank computes, in this order.
  const Progression& leaves() const;
  int64_t micro_batches() const;

  // What runs from here on belongs to this rank's next micro-batch. Needed only where a micro-batch
  // begins before its forward pass, with a pass that has no gradients (a teacher's), and where some
  // rank may repeat it without input: all ranks call it then. No communication.
  void begin_micro_batch();
  // Differentiates one micro-batch's mean loss, weighted 1/V: of the first of leaves() that is
  // still to be done. Communication runs beside it. Where it, or the forward pass before it, threw
  // on all ranks alike, the micro-batch is still to be done and may be tried again. Forward passes
  // may run ahead of their backward(), or have none, within one step.
  void backward(const Variable& loss);
  // The same of that micro-batch of the step, one of leaves(): backward passes may come in any
  // order, as in pipelines, and the bits are those of the plain order. All ranks take their
  // micro-batches in the same order: the k-th of leaves() together. Orders that keep many sums
  // waiting for others take more memory than memory_plan() says; the reverse order does not. Throws
  // UsageError where the micro-batch is not this rank's, or was done.
  void backward(const Variable& loss, int64_t micro_batch);
  // After the last backward() of a step: waits until the gradients are there. Then parameters() may
  // be changed, by an optimizer or in place, also after a forward pass of which no variable is
  // left, or under NoGradGuard (an evaluation, say).
  void finish();

  // Uneven inputs. At the start of each step every rank says whether it still has input and learns
  // how many ranks do; 0 ends the epoch on all ranks. A rank without input calls skip() in place of
  // forward and backward(): it takes part in the communication with zeros, and the mean is over the
  // ranks that had input. For one micro-batch a rank and step; not before the rank's first
  // backward(). A micro-batch begins with begin_micro_batch(), or with the first forward pass that
  // its backward() comes to; passes after that are a part of it (a teacher's). Where the others run
  // one before (an evaluation), a rank that skips runs it as well.
  int active_ranks(bool have_input);
  void skip();

  // What this rank updates: its slices of the trained parameters, flat, under their full names,
  // with gradients after finish().
  const std::vector<Parameter>& parameters() const;
  // The part of one parameter that this rank owns.
  struct Slice {
    std::string name;
    Tensor values;  // this rank's elements, flat; views of what is trained
    ShardSpec spec;
    size_t index;  // of the parameter among the model's
    bool trained;
  };
  // Everything that this rank owns, frozen parameters included: the sharded state dict. No
  // communication.
  const std::vector<Slice>& slices() const;
  // Slices may be written to between finish() and the next forward pass, also after a forward pass
  // of which no graph is alive. Within a step, or while such a graph is alive, call
  // values_changed() on all ranks afterwards (a checkpoint was read): graphs of before cannot be
  // differentiated any more. Call it also after writes through raw memory. Otherwise the next pass,
  // backward() or finish() ends on all ranks with an error that names parameters and unit; so does
  // a write to the module's own parameters.
  void values_changed();

  // Collective. The full state dict, one parameter at a time, in the order of their names:
  // use(name, whole) on every rank (or, in an empty function, nowhere). `whole` lives until use()
  // returns.
  void for_each_whole(const std::function<void(const std::string& name, const Tensor& whole)>& use);

  // Communication of the last step that compute did not hide.
  Duration exposed_communication() const;
  MemoryPlan memory_plan() const;
  // Units by name, the root first, with the names of their parameters.
  std::vector<std::pair<std::string, std::vector<std::string>>> units() const;

 private:
  std::shared_ptr<Engine> engine_;
};

// Collective: checks that all ranks hold the same model, takes rank 0's values, and shards every
// parameter below `module`, which must be the root of its tree. Trained parameters must be f32 (for
// bf16 compute use ops::PrecisionScope). A model that was built without memory (nn::DeferredInit)
// is drawn slice by slice. A module can be sharded once, as a whole: a second time, or as a part of
// another module, is a UsageError that names a parameter.
//
// `mesh`: {{"shard", W}}, or {{"replicate", R}, {"shard", S}} for R copies of the model, each on S
// neighbours (HSDP).
std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      const comm::DeviceMesh& mesh,
                                                      Options options = {});
// Over all ranks of a group.
std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      std::shared_ptr<comm::ProcessGroup> group,
                                                      Options options = {});

}  // namespace lockstep::fsdp
