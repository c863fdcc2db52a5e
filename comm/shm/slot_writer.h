// SlotWriter: copies into memory that another rank reads next, in whichever way is faster on this
// machine at this time.
//
// Where two cores share a cache, plain stores are best. Where they do not, a store waits until the
// reader's cache has given up the line that it has read before, and storing past the caches is up
// to ten times as fast. Programs cannot know which of the two holds: it may even change while they
// run, when a hypervisor moves virtual cores. So both ways are timed now and then.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::comm::shm {

// Not thread-safe.
class SlotWriter {
 public:
  // What was copied is visible to whoever sees what this thread publishes next. No overlap.
  void copy(void* to, const void* from, size_t bytes);
  // Whether plain stores are the faster way, as far as the copies so far have shown: then what is
  // just being made may as well be stored into a slot right away.
  bool plain_stores_pay() const { return faster() == through_caches; }

 private:
  enum Way : size_t { through_caches, past_caches };
  Way faster() const;
  Way next_way();
  void note(Way way, double seconds_per_byte);

  double recent_best_[2] = {0, 0};  // seconds a byte, by way
  uint32_t copies_ = 0;
};

}  // namespace lockstep::comm::shm
