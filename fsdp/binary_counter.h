// BinaryCounter: adds a sequence of terms in the order of the reduction tree, in the fewest buffers – what DDP does with a rank's
// micro-batches, for any flat f32 memory.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor/tensor.h"

namespace lockstep::fsdp {

// A tree over n terms splits at the largest power of two below n. Term i goes to the level that a binary counter would carry into,
// so that no sum is ever copied; the last one goes to the total.
class BinaryCounter {
 public:
  explicit BinaryCounter(std::function<Tensor()> make_level) : make_level_(std::move(make_level)) {}

  // Where term `i` must be written; undefined for the last one, which belongs to the total.
  Tensor target(int64_t i, bool last);
  // Adds to `term`, where term `i` was written, all sums that complete a pair with it; the last one takes all that is left.
  void fold(const Tensor& term, int64_t i, bool last);

 private:
  std::function<Tensor()> make_level_;
  std::vector<Tensor> levels_;  // made on first use
};

}  // namespace lockstep::fsdp
