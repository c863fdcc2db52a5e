#include "comm/engine/queued_calls.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/mutex.h"

namespace lockstep::comm {

struct QueuedCalls {
  Mutex mutex;
  std::vector<const QueuedCall*> all LOCKSTEP_GUARDED_BY(mutex);

  static QueuedCalls& of_process() {
    static auto* calls = new QueuedCalls;
    return *calls;
  }
};

QueuedCall::QueuedCall(std::string what, const Event& ready, const Event& end)
    : what_(std::move(what)), ready_(ready), end_(end) {
  QueuedCalls& calls = QueuedCalls::of_process();
  const MutexLock lock(calls.mutex);
  calls.all.push_back(this);
}

QueuedCall::~QueuedCall() {
  QueuedCalls& calls = QueuedCalls::of_process();
  const MutexLock lock(calls.mutex);
  std::erase(calls.all, this);
}

std::string QueuedCall::device_waits_in() const {
  QueuedCalls& calls = QueuedCalls::of_process();
  const MutexLock lock(calls.mutex);
  for (const QueuedCall* other : calls.all)
    if (other != this && other->end_.device() == end_.device() && other->ready_.done() &&
        !other->end_.done())
      return other->what_;
  return "";
}

}  // namespace lockstep::comm
