// Labels that distinguish the collectives of a wrapper from those of other wrappers, buckets and
// steps. A rank that tries a step again repeats its labels from the first bucket on. So it meets
// only ranks that also try again.
#pragma once

#include <cstdint>

#include "comm/process_group.h"

namespace lockstep::ddp {

class CallLabels {
 public:
  // For up to `buckets` buckets. Ranks that make their wrappers in the same order get equal labels.
  CallLabels(comm::ProcessGroup& group, uint64_t buckets)
      : slots_(buckets + kOwn), first_(group.reserve_labels(slots_ * kSteps)) {}

  uint64_t active_ranks() const { return at(0); }
  uint64_t freezing() const { return at(1); }
  uint64_t ready_order() const { return at(2); }
  uint64_t bucket(uint64_t index) const { return at(index + kOwn); }
  // All labels of this wrapper lie in [first(), last()].
  uint64_t first() const { return first_; }
  uint64_t last() const { return first_ + slots_ * kSteps - 1; }

  uint64_t step() const { return step_ + 1; }  // counts from 1
  void next_step() { ++step_; }

 private:
  // After this many steps labels repeat. Ranks are never that far apart.
  static constexpr uint64_t kSteps = 1024;
  static constexpr uint64_t kOwn = 3;  // labels before those of the buckets
  uint64_t at(uint64_t slot) const { return first_ + step_ % kSteps * slots_ + slot; }

  uint64_t slots_, first_;
  uint64_t step_ = 0;
};

}  // namespace lockstep::ddp
