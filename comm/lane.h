// Lane: runs jobs in order, one at a time, away from the threads that submit them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace lockstep::comm {

class WorkState;

// Thread-safe. Its thread starts with the first job. A thread that waits for a job and has nothing else to do may run the
// queue itself (help), which saves two changes of thread for every call that is waited for at once.
class Lane {
 public:
  struct Job {
    std::shared_ptr<WorkState> work;
    std::function<void()> run;  // finishes `work`; does not throw
  };

  Lane() = default;
  ~Lane() { close(); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Not after close().
  void submit(Job job);
  // Waits until everything submitted has run, then ends the thread.
  void close();
  // Runs queued jobs on the calling thread until `work` is done or another thread is at it.
  void help(const WorkState& work);

 private:
  void loop();
  // Both with the lock held; it is released while the job runs.
  void run_front(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Job> queue_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lockstep::comm
