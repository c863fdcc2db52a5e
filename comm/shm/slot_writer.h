// SlotWriter: copies data to memory that another rank reads next. It uses whichever method is
// faster on this machine at this time.
//
// If two cores share a cache, plain stores are best. If they do not, a store waits until the
// reader's cache has released the line; then bypassing the caches is up to ten times as fast.
// Programs cannot know which case holds. It may even change while they run, when a hypervisor moves
// virtual cores. So both methods are timed now and then.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::comm::shm {

// Not thread-safe.
class SlotWriter {
 public:
  // The copy is visible to readers of what this thread publishes next. Ranges must not overlap.
  void copy(void* to, const void* from, size_t bytes);
  // Whether plain stores are the faster method so far. Then a result may as well be stored directly
  // to a slot while it is computed.
  bool plain_stores_pay() const { return faster() == through_caches; }

 private:
  enum Way : size_t { through_caches, past_caches };
  Way faster() const;
  Way next_way();
  void note(Way way, double seconds_per_byte);

  double recent_best_[2] = {0, 0};  // seconds per byte, by method
  uint32_t copies_ = 0;
};

}  // namespace lockstep::comm::shm
