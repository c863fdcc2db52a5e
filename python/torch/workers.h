// Threads that finish calls which nobody waits for.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

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
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::function<void()>> jobs;
    size_t idle = 0;  // threads that wait for a job
    bool closed = false;
  };
  static void loop(const std::shared_ptr<Shared>& shared);

  const std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;  // guarded by shared_->mutex
};

}  // namespace lockstep::pytorch
