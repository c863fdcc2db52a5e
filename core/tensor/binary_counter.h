// BinaryCounter: adds a sequence of tensors in the order of the fixed tree (base/sum_tree.h), in
// the fewest buffers and without a copy.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor/tensor.h"

namespace lockstep {

// One sum at a time. Each term is written where the counter says, then folded:
//
//   BinaryCounter counter([] { return Tensor::zeros({n}); });
//   for (int64_t i = 0; i < terms; ++i) {
//     const bool last = i + 1 == terms;
//     const Tensor& level = counter.target(i, last);
//     const Tensor term = level.defined() ? level : total;
//     …write term i to `term`…
//     counter.fold(term, i, last);
//   }
//
// Not thread-safe, except for fold() of parts that do not overlap.
class BinaryCounter {
 public:
  // `make_level`: a contiguous f32 tensor of one dimension, called when a level is first used.
  explicit BinaryCounter(std::function<Tensor()> make_level) : make_level_(std::move(make_level)) {}

  // Where term i is to be written; undefined for the last one, whose place is the caller's total.
  const Tensor& target(int64_t i, bool last);
  // Adds to `term`, where term i was written, the sums that complete a pair with it; to the last
  // one all that are left. `term` may be a part: contiguous f32, from element `offset` of the
  // levels on.
  void fold(const Tensor& term, int64_t i, bool last, int64_t offset = 0) const;

 private:
  std::function<Tensor()> make_level_;
  std::vector<Tensor> levels_;
};

}  // namespace lockstep
