// Gradient clipping by the global norm.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "core/autograd/variable.h"
#include "core/device/kernels.h"
#include "core/optim/device_rows.h"

namespace lockstep::optim {

// The sums of squares that make up a norm: one for each block of kSquareBlock elements of each
// parameter, in order. Every rank that holds a block computes the same sum for it, whether it holds
// whole parameters or the slices that FSDP gave it. The norm adds these sums in one fixed tree:
// pairs of neighbours first. So its bits depend on shapes and values alone, not on which rank held
// what.
//
//   NormBlocks blocks(numels);                           the same on every rank
//   blocks.set(index, my_slice, offset);                 for each slice that this rank holds
//   group.host().all_reduce(blocks.bits(), {.op = bor}); where others hold the rest
//   double norm = blocks.norm();
class NormBlocks {
 public:
  // `numels`: number of elements of each whole parameter. All sums start at 0. `device`: where the
  // gradients are.
  explicit NormBlocks(std::span<const int64_t> numels, Device device = kCpu);

  // `gradient`: elements [offset, offset + numel) of parameter `index`, contiguous f32 or bf16. The
  // slice must begin at a multiple of kSquareBlock, and end at one or with the parameter. Throws
  // UsageError otherwise, because a block cannot be summed in two halves. The gradient is read at
  // the first call of sums(), bits() or norm(), after which set() must not come.
  void set(size_t index, const Tensor& gradient, int64_t offset = 0);
  // Starts again: nothing is set.
  void restart();

  // i64 [number of blocks] on the gradients' device: the sums, as the bits of doubles. Blocks that
  // were not set hold 0. Queues one launch for all gradients of a dtype, and does not wait. Valid
  // until restart().
  const Tensor& sums();
  // The same on the CPU, for which the first call waits: a bitwise or over ranks assembles the
  // vector exactly.
  const Tensor& bits();

  // The 2-norm over all blocks.
  double norm();

 private:
  std::vector<int64_t> numels_;
  std::vector<int64_t> first_block_;
  Tensor sums_;  // i64 on the gradients' device: the bits of doubles
  Tensor bits_;  // on the CPU; undefined before bits()
  // What was set, and not yet summed. The tensors keep the gradients.
  std::map<DType, std::vector<SquareSumsRow>> set_;
  std::vector<Tensor> gradients_;
  bool summed_ = false;
  using Blocks = std::vector<std::pair<double*, int64_t>>;  // sums of a gradient, its elements
  Blocks of_set_, of_sums_;                                 // in set_; in sums_
  std::map<DType, DeviceRows<SquareSumsRow>> rows_;
};

// The blocks of a model whose gradients may be spread over ranks, for one norm a step. `whole` and
// `held` as at grad_norm() below; the gradients are on `device`.
class GradNorm {
 public:
  GradNorm(std::span<const Parameter> whole, std::span<const Parameter> held, Device device);
  // The blocks of the gradients as they are now, with a 0 for what `held` does not hold.
  NormBlocks& blocks();

 private:
  std::vector<Parameter> held_;
  std::vector<size_t> index_;  // of each of held_ in `whole`
  NormBlocks blocks_;
};

// The 2-norm over all gradients, computed by NormBlocks. Parameters without a gradient count as 0.
// Throws UsageError for slices (Parameter::is_slice), whose norm would differ among ranks.
double grad_norm(std::span<const Parameter> parameters);

// The same norm, with the same bits, for a model whose gradients are spread over ranks.
// - `whole`: the model's parameters, in the same order on all ranks. Only names and shapes count.
// - `held`: the parameters or slices that this rank updates.
// - `or_over_ranks` replaces `bits` by their bitwise or over these ranks:
//
//   grad_norm(model.parameters(), sharded->parameters(),
//             [&](const Tensor& bits) {
//               group->host().all_reduce(bits, {.op = comm::ReduceOp::bor}).wait();
//             });
double grad_norm(std::span<const Parameter> whole, std::span<const Parameter> held,
                 const std::function<void(const Tensor& bits)>& or_over_ranks);

// The factor for gradients of norm `norm` so that their norm does not exceed `max_norm`. 1 if
// max_norm is 0 or less (no clipping). NaN if the norm is not finite, whatever max_norm is: the
// caller decides about such a step, which Optimizer::step() refuses. Throws UsageError if max_norm
// is NaN.
float clip_scale(double norm, double max_norm);

}  // namespace lockstep::optim
