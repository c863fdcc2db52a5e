// Watch: observes a peer during a long wait: checks whether the peer is stopped, and informs the
// users.
#pragma once

#include <list>
#include <optional>
#include <string>

#include "comm/shm/group.h"

namespace lockstep::comm::shm {

// For one wait in one thread.
class Group::Watch {
 public:
  Watch(Group& group, int peer, const Call& call) : group_(group), peer_(peer), call_(call) {}
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Call this now and then. Throws TimeoutError if the peer has been stopped for longer than the
  // call allows.
  void look() {
    if (next_.passed()) look_closely();
  }

 private:
  // How often to check whether the peer is stopped.
  static constexpr Duration kEvery = std::chrono::seconds(1);
  void look_closely();

  Group& group_;
  const int peer_;
  const Call& call_;
  const Clock::time_point start_ = Clock::now();
  Deadline next_ = Deadline::after(kEvery);
  std::optional<Clock::time_point> stopped_since_;
  bool shown_ = false;
};

}  // namespace lockstep::comm::shm
