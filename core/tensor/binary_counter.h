// BinaryCounter: adds tensors in the order of the fixed tree (base/sum_tree.h) as they arrive, with
// the fewest buffers and without copies. Terms in order are added as a binary counter counts; every
// other order gives the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor/sum_slots.h"
#include "core/tensor/tensor.h"

namespace lockstep {

// Computes one sum at a time. SumSlots, which several counters may share, decides where a term
// belongs. The term is written there and then folded:
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
  // `make_slot`: makes a contiguous f32 tensor of one dimension; called on a slot's first use.
  explicit BinaryCounter(std::function<Tensor()> make_slot) : make_slot_(std::move(make_slot)) {}

  // Returns where to write the term. Undefined for the term that completes the sum: write that one
  // to the caller's total.
  const Tensor& target(const SumSlots::Place& place);
  // Adds to `term`, which was written there, the sums that complete a node with it. `term` may be a
  // part: contiguous f32, starting at element `offset` of the slots.
  void fold(const Tensor& term, const SumSlots::Place& place, int64_t offset = 0) const;

 private:
  std::function<Tensor()> make_slot_;
  std::vector<Tensor> slots_;
};

}  // namespace lockstep
