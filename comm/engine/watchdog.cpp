#include "comm/engine/watchdog.h"

#include <algorithm>
#include <vector>

#include "core/base/thread.h"

namespace lockstep::comm {
namespace {

constexpr Duration kLook = std::chrono::milliseconds(1);
constexpr int kLooksPerCheck = 10;

}  // namespace

void Watchdog::add(Call call) {
  const MutexLock lock(mutex_);
  if (!thread_.joinable()) thread_ = start_thread("for calls on devices", [this] { loop(); });
  calls_.push_back({std::move(call)});
  if (calls_.size() == 1) changed_.notify_all();
}

void Watchdog::close() {
  std::thread thread;
  {
    const MutexLock lock(mutex_);
    closing_ = true;
    changed_.notify_all();
    thread.swap(thread_);
  }
  if (thread.joinable()) thread.join();
}

// Returns whether the call is finished.
bool Watchdog::look(Watched& watched, bool check) {
  Verdict verdict;
  bool done = false;
  try {
    done = watched.call.end.done();
    if (!done && check) verdict = watched.call.check();
  } catch (...) {  // the device has failed
    verdict = {std::current_exception(), Duration::zero()};
  }
  if (done) {
    watched.call.finish(nullptr);
    return true;
  }
  if (!check && !verdict.failure) return false;
  if (!verdict.failure) {
    watched.failing_since.reset();
    return false;
  }
  const auto now = Clock::now();
  if (!watched.failing_since) watched.failing_since = now;
  if (now - *watched.failing_since < verdict.grace) return false;
  watched.call.finish(verdict.failure);
  return true;
}

void Watchdog::loop() {
  const MutexLock lock(mutex_);
  for (int looks = 0; !closing_ || !calls_.empty(); ++looks) {
    if (calls_.empty()) {
      changed_.wait(mutex_);
      continue;
    }
    // A deque keeps its elements where they are while others are added.
    std::vector<Watched*> first;
    for (Watched& watched : calls_)
      if (std::none_of(first.begin(), first.end(),
                       [&](const Watched* w) { return w->call.order == watched.call.order; }))
        first.push_back(&watched);
    bool any = false;
    {
      const MutexUnlock unlocked(mutex_);
      for (Watched* watched : first) {
        watched->finished = look(*watched, looks % kLooksPerCheck == 0);
        any = any || watched->finished;
      }
    }
    if (any)
      std::erase_if(calls_, [](const Watched& watched) { return watched.finished; });
    else
      changed_.wait_for(mutex_, kLook);
  }
}

}  // namespace lockstep::comm
