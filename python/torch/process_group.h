// The process group that torch.distributed calls: c10d's interface over comm::ProcessGroup.
//
// Every function checks its arguments and throws what is wrong with them at once. What goes wrong
// later is thrown by wait() of the Work that it returns. Tensors need not be contiguous; those that
// are not are copied in and out. Thread-safe as comm::ProcessGroup is: calls may come from any
// thread, in the same order on all ranks.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "python/torch/call.h"
#include "python/torch/core.h"
#include "python/torch/reduction.h"

namespace lockstep::pytorch {

class ProcessGroup final : public c10d::ProcessGroup {
 public:
  using Tensors = std::vector<at::Tensor>;
  using TensorLists = std::vector<Tensors>;
  using WorkHandle = c10::intrusive_ptr<c10d::Work>;

  explicit ProcessGroup(std::shared_ptr<Core> core);
  ~ProcessGroup() override;

  const std::string getBackendName() const override { return "lockstep"; }

  WorkHandle broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkHandle allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkHandle allreduce_coalesced(Tensors& tensors,
                                 const c10d::AllreduceCoalescedOptions& options) override;
  WorkHandle reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkHandle allgather(TensorLists& outputs, Tensors& inputs,
                       const c10d::AllgatherOptions& options) override;
  WorkHandle _allgather_base(at::Tensor& output, at::Tensor& input,
                             const c10d::AllgatherOptions& options) override;
  // outputs[rank][i] is rank's inputs[i].
  WorkHandle allgather_coalesced(TensorLists& outputs, Tensors& inputs,
                                 const c10d::AllgatherOptions& options) override;
  WorkHandle gather(TensorLists& outputs, Tensors& inputs,
                    const c10d::GatherOptions& options) override;
  WorkHandle scatter(Tensors& outputs, TensorLists& inputs,
                     const c10d::ScatterOptions& options) override;
  WorkHandle reduce_scatter(Tensors& outputs, TensorLists& inputs,
                            const c10d::ReduceScatterOptions& options) override;
  WorkHandle _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                  const c10d::ReduceScatterOptions& options) override;
  // Splits are rows (slices along the first axis) by rank; empty lists: equal ones.
  WorkHandle alltoall_base(at::Tensor& output, at::Tensor& input,
                           std::vector<int64_t>& output_splits, std::vector<int64_t>& input_splits,
                           const c10d::AllToAllOptions& options) override;
  WorkHandle alltoall(Tensors& outputs, Tensors& inputs,
                      const c10d::AllToAllOptions& options) override;
  // A receive must name its sender's tag: messages between two ranks match in order.
  WorkHandle send(Tensors& tensors, int destination, int tag) override;
  WorkHandle recv(Tensors& tensors, int source, int tag) override;
  WorkHandle recvAnysource(Tensors& tensors, int tag) override;
  WorkHandle barrier(const c10d::BarrierOptions& options) override;
  void monitoredBarrier(const c10d::BarrierOptions& options, bool wait_all_ranks) override;

  // Every call carries its number in the group already.
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return calls_; }

 private:
  struct Names;  // of a call: c10d's and the profiler's

  WorkHandle start(const Names& names, const Tensors& inputs, Tensors outputs, Plan plan,
                   std::chrono::milliseconds timeout);
  void check_call(const Names& names) const;
  // Each adds one tensor's part to a call.
  void add_all_reduce(Plan& plan, const at::Tensor& tensor, const Reduction& reduction);
  void add_all_gather(Plan& plan, const Tensors& outputs, const at::Tensor& input,
                      const Names& names);
  void add_reduce_scatter(Plan& plan, const at::Tensor& output, const at::Tensor& flat,
                          const Reduction& reduction);
  void add_exchange(Plan& plan, const Tensors& to, const Tensors& from, at::ScalarType type);

  std::shared_ptr<Core> core_;
  comm::ProcessGroup& group_;
  std::atomic<uint64_t> calls_ = 0;
};

}  // namespace lockstep::pytorch
