// The options for sharding a model.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "core/autograd/variable.h"
#include "core/nn/module.h"
#include "core/tensor/storage.h"

namespace lockstep::fsdp {

// When the gathered parameters of a unit are released.
enum class Reshard : uint8_t {
  after_forward,  // full sharding (ZeRO-3): gathered again for backward
  after_step,     // gathered once a step (ZeRO-1 and ZeRO-2)
};

// Where the gradients of a step's micro-batches are summed.
enum class Accumulate : uint8_t {
  in_shards,  // each micro-batch's gradients are reduced at once, and their
              // owners sum them (ZeRO-2, ZeRO-3): 1/W of the memory
  in_full,    // each rank first sums its own in full-size memory, and
              // communicates once a step (ZeRO-1)
};

struct Options {
  int64_t micro_batches = 0;  // V of one step, over all ranks; 0: one for each rank
  Reshard reshard = Reshard::after_forward;
  Accumulate accumulate = Accumulate::in_shards;
  int nearby = 0;  // ranks that gather a unit again for backward, from second, larger
                   // shards; 0: all ranks that share a copy of the model

  // Whether a module becomes a unit, which is gathered, computed and released as one. The root
  // always is one. Empty: the children of modules with several children of the same type (blocks).
  std::function<bool(const nn::Module&)> wrap = {};
  // Whether an f32 parameter (such as a linear layer's weight) is read only in the dtype of the
  // open ops::PrecisionScope. Then it is gathered in that dtype, with half the bytes. Others are
  // gathered in their own dtype.
  std::function<bool(const Parameter&)> low_precision = {};  // empty: none
  DType compute = DType::f32;                                // that dtype: f32 or bf16
  // The dtype in which gradients travel within a row. bf16 halves the bytes. But each rank's part
  // is rounded, and their sum once more, so the bits depend on the number of ranks. Sums over
  // micro-batches and rows are in f32 anyway.
  DType reduce = DType::f32;
  // The dtype of the model's floating outputs (logits). Their gradients are converted back. Empty:
  // as the model makes them.
  std::optional<DType> output = {};

  int units_in_flight = 2;  // units gathered at a time beside the root, including the one in
                            // use; at least 1. With 2, the next one is fetched meanwhile
  // Allocates this rank's slices of the parameters, instead of the group's memory (for a file:
  // train/parallel/offload.h). On a CPU only, because a device's kernels cannot read it.
  StorageScope::Make own_memory = {};
  // Gives a zero gradient to parameters that take no part in a step. If off, such a parameter is an
  // error that names it.
  bool find_unused_parameters = false;
};

}  // namespace lockstep::fsdp
