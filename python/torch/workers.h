// Threads that finish calls which nobody waits for.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/mutex.h"

namespace lockstep::pytorch {

// Runs every job at once, on a thread that is free or on a new one: a job may block until another
// job has run. Callbacks of futures run here, and may make calls and wait for them. Thread-safe.
class Workers {
 public:
  Workers() : shared_(std::make_shared<Shared>()) {}
  ~Workers() { close(); }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // `job` does not throw. After close() it runs on the calling thread.
  void run(std::function<void()> job);
  // Waits until every job has run, then ends the threads. A job may call it: its own thread then
  // ends when the job does.
  void close();

 private:
  struct Shared {
    Mutex mutex;
    Condition wake;
    std::deque<std::function<void()>> jobs LOCKSTEP_GUARDED_BY(mutex);
    size_t idle LOCKSTEP_GUARDED_BY(mutex) = 0;  // threads that wait for a job
    bool closed LOCKSTEP_GUARDED_BY(mutex) = false;
  };
  static void loop(const std::shared_ptr<Shared>& shared);

  const std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_ LOCKSTEP_GUARDED_BY(shared_->mutex);
};

}  // namespace lockstep::pytorch
