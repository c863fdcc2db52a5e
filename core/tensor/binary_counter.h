// BinaryCounter: adds tensors in the order of the fixed tree (base/sum_tree.h) as they come, in the
// fewest buffers and without a copy. Terms that come in order are added as a binary counter counts;
// any other order gives the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor/sum_slots.h"
#include "core/tensor/tensor.h"

namespace lockstep {

// One sum at a time. SumSlots, which several counters may share, says where a term belongs. It is
// written there, then folded:
//
//   SumSlots slots;
//   BinaryCounter counter([] { return Tensor::zeros({n}); });
//   for (int64_t i : any_order) {
//     const SumSlots::Place place = slots.place(i, terms);
//     const Tensor& kept = counter.target(place);
//     const Tensor term = kept.defined() ? kept : total;
//     …write term i to `term`…
//     counter.fold(term, place);
//     slots.take(place);
//   }
//
// Not thread-safe, except for fold() of parts that do not overlap.
class BinaryCounter {
 public:
  // `make_slot`: a contiguous f32 tensor of one dimension, called when a slot is first used.
  explicit BinaryCounter(std::function<Tensor()> make_slot) : make_slot_(std::move(make_slot)) {}

  // Where the term is to be written; undefined for the one that completes the sum, whose place is
  // the caller's total.
  const Tensor& target(const SumSlots::Place& place);
  // Adds to `term`, which was written there, the sums that complete a node with it. `term` may be a
  // part: contiguous f32, from element `offset` of the slots on.
  void fold(const Tensor& term, const SumSlots::Place& place, int64_t offset = 0) const;

 private:
  std::function<Tensor()> make_slot_;
  std::vector<Tensor> slots_;
};

}  // namespace lockstep
