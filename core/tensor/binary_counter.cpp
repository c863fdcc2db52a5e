#include "core/tensor/binary_counter.h"

#include "core/device/kernels.h"

namespace lockstep {

const Tensor& BinaryCounter::target(const SumSlots::Place& place) {
  static const Tensor none;
  if (place.slot == SumSlots::kTotal) return none;
  const auto slot = static_cast<size_t>(place.slot);
  while (slots_.size() <= slot) slots_.push_back(make_slot_());
  return slots_[slot];
}

void BinaryCounter::fold(const Tensor& term, const SumSlots::Place& place, int64_t offset) const {
  for (const int slot : place.slots) {
    const float* sum = static_cast<const float*>(slots_[static_cast<size_t>(slot)].raw()) + offset;
    kernels(term.device())
        .axpby(current_queue(term.device()), DType::f32, term.numel(), 1.0f, sum, 1.0f, term.raw());
  }
}

}  // namespace lockstep
