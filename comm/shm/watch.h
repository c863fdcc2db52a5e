// Watch: what a rank does while it waits for another one for long: looks whether that one is
// stopped, and tells the users.
#pragma once

#include <list>
#include <optional>
#include <string>

#include "comm/shm/group.h"

namespace lockstep::comm::shm {

// Of one wait in one thread.
class Group::Watch {
 public:
  Watch(Group& group, int peer, const Call& call) : group_(group), peer_(peer), call_(call) {}
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // To be called now and then. Throws TimeoutError where the peer has been stopped for longer than
  // the call allows.
  void look() {
    if (next_.passed()) look_closely();
  }

 private:
  // Whether the peer is stopped is looked at so often.
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
