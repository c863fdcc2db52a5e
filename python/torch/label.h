// Labels of calls (comm::ReduceOptions::label): what lockstep cannot see by itself, so that ranks
// which differ in it get an error and no wrong data.
#pragma once

#include <cstdint>

#include <ATen/ATen.h>

#include "python/torch/reduction.h"
#include "python/torch/tensors.h"

namespace lockstep::pytorch {

// docs/torch.md has the table of these bits.
//   0..7   1 + PyTorch's number of the type, where lockstep lacks it
//   8      an average
//   9      an all_to_all with sizes
//   10..13 1 + the operation, where ranks reduce by themselves
//   16..   the tag of a message
inline uint64_t label_of(at::ScalarType type) {
  return is_native(type) ? 0 : 1 + static_cast<uint64_t>(type);
}
inline uint64_t label_of(at::ScalarType type, const Reduction& reduction) {
  uint64_t label = label_of(type) | (reduction.average ? uint64_t{1} << 8 : 0);
  if (!reduces_natively(type)) label |= (1 + static_cast<uint64_t>(reduction.op)) << 10;
  return label;
}
inline uint64_t exchange_label(at::ScalarType type) { return label_of(type) | (uint64_t{1} << 9); }
inline uint64_t message_label(at::ScalarType type, int tag) {
  return label_of(type) | (static_cast<uint64_t>(tag) << 16);
}

}  // namespace lockstep::pytorch
