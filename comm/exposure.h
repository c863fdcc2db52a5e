// How long a step was held up by communication that compute did not hide: by the host's waits, and
// on devices by those of queues, which are known once the queues have come so far.
#pragma once

#include <utility>
#include <vector>

#include "comm/work.h"

namespace lockstep::comm {

// Not thread-safe.
class Exposure {
 public:
  // Time in which the host waited.
  void add(Duration host) { host_ += host; }
  // What queues wait for `work`, whose wait() has returned.
  void add(const Work& work) {
    if (work.waits_on_queue()) works_.push_back(work);
  }
  void add(const Exposure& other) {
    host_ += other.host_;
    works_.insert(works_.end(), other.works_.begin(), other.works_.end());
  }
  Exposure take() { return std::exchange(*this, {}); }

  // So far: all of it after the queues that waited were synchronized.
  Duration total() const {
    Duration total = host_;
    for (const Work& work : works_) total += work.exposed_on_queue();
    return total;
  }

 private:
  Duration host_{};
  std::vector<Work> works_;
};

}  // namespace lockstep::comm
