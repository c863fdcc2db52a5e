// DistributedDataParallel: every rank holds the whole model and computes its share of a step's
// micro-batches. All ranks end with the same summed gradients.
//
//   ddp::DistributedDataParallel ddp(model.parameters(), model.buffers(), group);
//   for (each step) {
//     for (each micro-batch of this rank) ddp.backward(loss(micro-batch));
//     ddp.finish();  // gradients are now the mean over all micro-batches of all ranks
//     optimizer.step(lr);
//     optimizer.zero_grad();
//   }
//
// A step has V micro-batches (Options::micro_batches, one a rank by default). ReduceTree says which
// rank computes which. Gradients are summed in f32 over the fixed tree of the V micro-batches. A
// rank sums its part with a binary counter; ranks then sum along the rest of the same tree. So the
// bits do not depend on the number of ranks.
//
// Forward passes may run ahead of their backward() within a step, and backward passes may come in
// any order, as in pipelines: backward(loss, micro_batch) says which micro-batch it is, and the
// bits are those of the plain order. Orders that keep many sums waiting for others take more memory
// than gradient_bytes() says; the reverse order does not.
//
// A step's gradients replace those of the step before, whether or not zero_grad() was called. To
// add up more micro-batches, make them part of one step: Options::micro_batches, or no_sync().
//
// Communication starts during the last backward(). A bucket is reduced as soon as all of its
// gradients are final and all earlier buckets have started, while later gradients are still
// computed. Buckets start in index order, never in order of arrival, so that all ranks issue the
// same collectives. After the first step the buckets are laid out again, once, in the order in
// which rank 0's gradients became final.
//
// Parameters may be frozen and unfrozen (set_requires_grad) between steps, equally on all ranks.
// The next step follows. A frozen parameter has no gradient, so optimizers do not touch it. If
// ranks differ, all of them get a UsageError.
//
// A backward() or skip() that threw leaves nothing behind and must still be done:
// - If it threw on all ranks (a faulty batch, memory that ran out), call it again. The bits are
//   those of a step without the fault.
// - If only some ranks threw, their next try is an error on all ranks, because the others have used
//   what they had sent. Before anything was sent, a rank may try again alone.
//
// Hooks of a parameter (Parameter::add_grad_hook) run whenever they were added, before or after
// wrapping. They see the gradient of this rank's micro-batch, weighted 1/V, before anything is
// added to it, and may change the values in place. The wrapper takes the gradient after them
// (add_grad_taker). A second wrapper of the same parameters, or a FullyShardedDataParallel, takes
// them over from the first.
//
// Sources: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training",
// VLDB 2020 (buckets, overlap, rebuilding). Thread-safety: use one thread, the one that runs
// backward.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/exposure.h"
#include "comm/process_group.h"
#include "core/autograd/hook_list.h"
#include "core/autograd/variable.h"
#include "data_parallel/uneven_inputs.h"
#include "ddp/buckets.h"
#include "ddp/call_labels.h"
#include "ddp/comm_hook.h"

namespace lockstep::ddp {

struct Options {
  int64_t micro_batches = 0;  // V of one step, over all ranks; 0: one a rank
  int64_t first_bucket_bytes = 1 << 20;
  int64_t bucket_bytes = 8 << 20;
  // Gives a zero gradient to parameters that take no part in a step. If off, such a parameter is an
  // error that names it: it is usually a mistake, and looking for them costs a walk over the graph.
  bool find_unused_parameters = false;
  CommHook comm_hook = all_reduce_hook;
};

class DistributedDataParallel {
 public:
  // Collective. Checks that all ranks have the same names, shapes and dtypes, then copies rank 0's
  // values to all. Parameters must be f32, contiguous, and listed once each. For bf16 compute, keep
  // f32 masters and use ops::PrecisionScope. Frozen parameters are only copied.
  DistributedDataParallel(std::vector<Parameter> parameters,
                          std::vector<std::pair<std::string, Tensor>> buffers,
                          std::shared_ptr<comm::ProcessGroup> group, Options options = {});
  ~DistributedDataParallel();
  DistributedDataParallel(const DistributedDataParallel&) = delete;
  DistributedDataParallel& operator=(const DistributedDataParallel&) = delete;

  // Says which rank computes which micro-batches.
  const comm::ReduceTree& tree() const { return tree_; }

  // Differentiates one micro-batch's mean loss, weighted 1/V: of the first micro-batch of this
  // rank's share that is still to be done. The last one that comes starts the communication.
  void backward(const Variable& loss);
  // The same of that micro-batch of the step, within [tree().begin(rank), tree().begin(rank + 1)).
  // Throws UsageError where it is not this rank's, or was done, and under no_sync().
  void backward(const Variable& loss, int64_t micro_batch);

  // Waits for the reductions, in bucket order. If a collective failed, throws its error and names
  // the bucket.
  void finish();

  // While the guard lives, backward() only accumulates, whatever the share. For steps whose number
  // of micro-batches the caller decides. In a step that had a guard, the first backward() without
  // one communicates.
  class NoSync {
   public:
    explicit NoSync(DistributedDataParallel& ddp) : ddp_(ddp) { ++ddp_.no_sync_depth_; }
    ~NoSync() { --ddp_.no_sync_depth_; }
    NoSync(const NoSync&) = delete;
    NoSync& operator=(const NoSync&) = delete;

   private:
    DistributedDataParallel& ddp_;
  };
  NoSync no_sync() { return NoSync(*this); }

  // Uneven inputs, for one micro-batch a rank and step. At the start of each step every rank calls
  // active_ranks() with whether it still has input. All get the number of ranks that do. 0 ends the
  // epoch on all ranks. A rank without input calls skip() instead of backward(). It then
  // communicates zeros, and the mean is over the ranks that had input.
  //
  // A call holds for one step. A step without it takes the mean over all micro-batches. If a rank
  // does not do what it said, all ranks get a UsageError.
  int active_ranks(bool have_input);
  void skip();

  // How long the last step was held up by communication that compute did not hide: in finish(), and
  // on a device in its queues, once they have come so far.
  Duration exposed_communication() const { return exposed_.total(); }
  // Bytes of gradients on this rank: buckets, and the partial sums of its micro-batches.
  int64_t gradient_bytes() const;
  // The parameters of each bucket, in the order in which buckets are reduced. Indices count trained
  // parameters only.
  const BucketLayout& layout() const { return layout_; }

 private:
  struct Slot {  // where a parameter's gradient lives
    size_t bucket;
    size_t member;
  };
  struct Reduction {  // of one bucket, started
    PendingReduction pending;
    uint64_t label;
  };

  void check_taken();
  void take_trained();
  void follow_freezing();
  void build(BucketLayout layout);
  template <typename Differentiate>
  void micro_batch(int64_t term, bool has_input, const Differentiate& differentiate);
  void backward_of(int64_t term, const Variable& loss);
  void begin_micro_batch(int64_t term, bool has_input);
  const void* point_gradient(size_t index, Tensor place);
  void on_gradient(size_t index_in_all);
  void gradient_is_final(size_t index);
  void mark_ready(size_t index);
  void start_ready_buckets();
  void zero_unused(const std::vector<bool>& used);
  void end_micro_batch();
  void abandon_micro_batch();
  void settle_abandoned();
  void wait_for(const Reduction& reduction, size_t bucket) const;
  std::string describe_bucket(size_t bucket, uint64_t label) const;
  void rebuild_in_ready_order();
  int64_t share() const;
  [[noreturn]] void fail(const std::string& message);

  std::vector<Parameter> all_;         // frozen ones included
  std::vector<Parameter> parameters_;  // the trained ones of these
  std::vector<size_t> trained_index_;  // by index in all_: the index in parameters_, or kFrozen
  std::shared_ptr<comm::ProcessGroup> group_;
  Options options_;
  comm::ReduceTree tree_;
  CallLabels labels_;
  std::vector<ScopedHook> takers_;  // by index in all_

  BucketLayout layout_;
  std::vector<Bucket> buckets_;
  std::vector<Slot> slots_;

  // The step under way.
  int64_t done_ = 0;       // micro-batches of this rank's share
  SumSlots sums_;          // where they wait for each other
  SumSlots::Place place_;  // of the one under way
  bool last_micro_batch_ = false;
  bool synchronised_ = false;  // the communicating micro-batch is done
  bool guarded_ = false;       // a NoSync was seen in this step
  int no_sync_depth_ = 0;
  data_parallel::UnevenInputs uneven_;
  std::vector<bool> ready_;             // empty outside of a micro-batch
  std::vector<const void*> gradients_;  // where the micro-batch's gradients belong
  std::vector<size_t> missing_in_bucket_;
  size_t next_bucket_ = 0;
  std::vector<Reduction> reductions_;
  size_t finished_ = 0;  // number of finished reductions
  std::vector<size_t> ready_order_;
  bool rebuilt_ = false;
  comm::Exposure exposed_;
};

}  // namespace lockstep::ddp
