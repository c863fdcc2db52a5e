// What a user chooses when a model is sharded.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "core/autograd/variable.h"
#include "core/nn/module.h"
#include "core/tensor/storage.h"

namespace lockstep::fsdp {

// When the gathered parameters of a unit are let go.
enum class Reshard : uint8_t {
  after_forward,  // full sharding (ZeRO-3): gathered again for backward
  after_step,     // gathered once a step (ZeRO-1 and ZeRO-2)
};

// Where the gradients of a step's micro-batches are summed.
enum class Accumulate : uint8_t {
  in_shards,  // each micro-batch's gradients are reduced at once and summed by their owners
              // (ZeRO-2, ZeRO-3): 1/W of the memory
  in_full,    // each rank sums its own first, in full-size memory, and communicates once a step
              // (ZeRO-1)
};

struct Options {
  int64_t micro_batches = 0;  // V of one step, over all ranks; 0: one a rank
  Reshard reshard = Reshard::after_forward;
  Accumulate accumulate = Accumulate::in_shards;
  int nearby = 0;  // ranks among which a unit is gathered again for backward, from a second, larger
                   // shard; 0: all that share a copy of the model

  // Whether a module becomes a unit: gathered, computed and let go as one. The root always is one.
  // Empty: the children of modules with several children of one kind (blocks).
  std::function<bool(const nn::Module&)> wrap = {};
  // Whether an f32 parameter is only ever read in the dtype of the open ops::PrecisionScope
  // (weights of linear layers), and may be gathered in it, with half the bytes. Others are gathered
  // in their own dtype.
  std::function<bool(const Parameter&)> low_precision = {};  // empty: none
  DType compute = DType::f32;                                // that dtype: f32 or bf16
  // In which gradients travel within a row. bf16: half the bytes, but each rank's part is rounded,
  // and their sum once more, so that the bits depend on the number of ranks. They are added up over
  // micro-batches and rows in f32 all the same.
  DType reduce = DType::f32;
  // In which the model hands on its floating outputs (logits); their gradients are converted back.
  // Empty: as the model made them.
  std::optional<DType> output = {};

  int units_in_flight = 2;  // gathered at a time beside the root, the one in use included; at
                            // least 1. 2: the next one is fetched meanwhile
  // Where this rank's slices of the parameters lie, instead of in memory that suits the group (a
  // file: train/parallel/offload.h). On a CPU only: a device's kernels cannot read it.
  StorageScope::Make own_memory = {};
  // Parameters that take no part in a step get a zero gradient. Off: such a parameter is an error
  // that names it.
  bool find_unused_parameters = false;
};

}  // namespace lockstep::fsdp
