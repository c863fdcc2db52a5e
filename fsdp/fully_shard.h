// FullyShardedDataParallel: every rank holds a slice of the model: parameters, gradients and
// optimizer states. It gathers one unit of the model at a time, while it computes its share of a
// step's micro-batches.
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
// whole during its module's forward(), and again in backward. Other code, such as the module around
// the unit or the loss, may read them between the start of the model's forward pass and the end of
// backward(). Such a read gathers the unit. All ranks must do it, and the unit then stays whole
// beyond `units_in_flight` until another unit's pass makes room. Gradients are right wherever a
// parameter was read. At any other time a read throws UsageError that names parameter and unit,
// unless the unit is still whole, with current values.
//
// The module's own parameters hold no gradients outside of backward: grad() and has_grad() throw
// UsageError. After finish(), this rank's slices, parameters(), hold them. Parameters must not be
// frozen or unfrozen after sharding: the next backward() then fails on all ranks and names the
// parameter.
//
// Gradients have the same bits as with DistributedDataParallel and on a single rank. They are
// summed in f32 over the fixed tree of the step's V micro-batches (fsdp/mesh.h assigns these).
//
// All ranks must run the same units in the same order. If they do not, the next collective fails on
// all of them and names both calls.
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

// The memory that sharded training needs on one rank, in bytes unless noted, predicted before it
// runs. Activations and optimizer states are not included: the former depend on the model, the
// latter are a multiple of the trained slices.
struct MemoryPlan {
  // This rank's slices, and their copies in the dtype in which they are gathered.
  int64_t parameters = 0;
  int64_t gathered = 0;   // largest memory of whole units: the root, and the largest
                          // units that may be whole beside it
  int64_t gradients = 0;  // this rank's slices with the partial sums of a step, and the
                          // buffers in which units are differentiated
  int64_t trained = 0;    // number of elements that this rank updates, without padding
};

class FullyShardedDataParallel {
 public:
  // Collective: see fully_shard().
  FullyShardedDataParallel(std::shared_ptr<nn::Module> module, const comm::DeviceMesh& mesh,
                           Options options);
  // The module stays sharded and becomes unusable. Running it, reading its parameters, or going
  // backward through an old graph throws UsageError, for any number of ranks.
  ~FullyShardedDataParallel();
  FullyShardedDataParallel(const FullyShardedDataParallel&) = delete;
  FullyShardedDataParallel& operator=(const FullyShardedDataParallel&) = delete;

  // The step's micro-batches that this rank computes, in this order.
  const Progression& leaves() const;
  int64_t micro_batches() const;

  // Everything from here on belongs to this rank's next micro-batch. All ranks must call this if
  // some rank may repeat the micro-batch without input and it begins with a pass without gradients
  // (such as a teacher's), before its forward pass. No communication.
  void begin_micro_batch();
  // Differentiates one micro-batch's mean loss, weighted 1/V: of the first of leaves() that is not
  // done. Communication runs at the same time. If it, or its forward pass, throws on all ranks
  // alike, the micro-batch is not done and may be tried again. Within a step, forward passes may
  // run ahead of their backward(), or have none.
  void backward(const Variable& loss);
  // The same for a given micro-batch, one of leaves(). Backward passes may come in any order, as in
  // pipelines, with the bits of the plain order. All ranks take their micro-batches in the same
  // order: the k-th of leaves() together. Orders that keep many sums waiting for others take more
  // memory than memory_plan() says; the reverse order does not. Throws UsageError if the
  // micro-batch is not this rank's, or was done already.
  void backward(const Variable& loss, int64_t micro_batch);
  // Call after the last backward() of a step: waits for the gradients. Then parameters() may be
  // changed, by an optimizer or in place; also after a forward pass whose variables are all gone,
  // or that ran under NoGradGuard (such as an evaluation).
  void finish();

  // Uneven inputs, for one micro-batch a rank and step. At the start of each step, every rank tells
  // whether it still has input, and learns how many ranks do; 0 ends the epoch on all ranks. A rank
  // without input calls skip() instead of forward and backward(). It then communicates zeros, and
  // the mean is over the ranks with input. A rank's first micro-batch must not be skipped. A
  // micro-batch begins with begin_micro_batch(), or with the first forward pass that its backward()
  // visits; later passes belong to it (such as a teacher's). If the others run a pass before it
  // (such as an evaluation), a rank that skips runs it as well.
  int active_ranks(bool have_input);
  void skip();

  // What this rank updates: its flat slices of the trained parameters, under their full names. They
  // have gradients after finish().
  const std::vector<Parameter>& parameters() const;
  // The part of one parameter that this rank owns.
  struct Slice {
    std::string name;
    Tensor values;  // this rank's elements, flat; views of the trained values
    ShardSpec spec;
    size_t index;  // of the parameter in the model
    bool trained;
  };
  // Everything that this rank owns, including frozen parameters: the sharded state dict. No
  // communication.
  const std::vector<Slice>& slices() const;
  // Slices may be written between finish() and the next forward pass; also after a forward pass
  // whose graph is gone. If they are written within a step or while such a graph is alive (after
  // reading a checkpoint, say), call values_changed() on all ranks afterwards; older graphs then
  // cannot be differentiated. Call it also after writes through raw memory. Otherwise the next
  // pass, backward() or finish() fails on all ranks and names parameters and unit. So does a write
  // to the module's own parameters.
  void values_changed();

  // Collective. The full state dict, one parameter at a time, in the order of their names: calls
  // use(name, whole) on every rank. On ranks where `use` is empty, calls nothing. `whole` is valid
  // until use() returns.
  void for_each_whole(const std::function<void(const std::string& name, const Tensor& whole)>& use);

  // Communication time of the last step that compute did not hide.
  Duration exposed_communication() const;
  MemoryPlan memory_plan() const;
  // Names of the units, the root first, with the names of their parameters.
  std::vector<std::pair<std::string, std::vector<std::string>>> units() const;

 private:
  std::shared_ptr<Engine> engine_;
};

// Collective. Checks that all ranks hold the same model, takes rank 0's values, and shards every
// parameter below `module`, which must be the root of its tree. Trained parameters must be f32 (for
// bf16 compute use ops::PrecisionScope). A model built without memory (nn::DeferredInit) draws its
// values slice by slice. A module can be sharded only once and as a whole; otherwise throws
// UsageError that names a parameter.
//
// `mesh`: {{"shard", W}}, or {{"replicate", R}, {"shard", S}} for R copies of the model, each on S
// neighbours (HSDP).
std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      const comm::DeviceMesh& mesh,
                                                      Options options = {});
// The same over all ranks of a group.
std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      std::shared_ptr<comm::ProcessGroup> group,
                                                      Options options = {});

}  // namespace lockstep::fsdp
