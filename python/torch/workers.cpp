#include "python/torch/workers.h"

#include "core/base/thread.h"

namespace lockstep::pytorch {

void Workers::run(std::function<void()> job) {
  {
    const MutexLock lock(shared_->mutex);
    if (!shared_->closed) {
      if (shared_->idle <= shared_->jobs.size())
        threads_.push_back(start_thread("to finish a call of torch.distributed",
                                        [shared = shared_] { loop(shared); }));
      shared_->jobs.push_back(std::move(job));
      shared_->wake.notify_one();
      return;
    }
  }
  job();
}

void Workers::loop(const std::shared_ptr<Shared>& shared) {
  const MutexLock lock(shared->mutex);
  for (;;) {
    ++shared->idle;
    shared->wake.wait(shared->mutex, [&]() LOCKSTEP_REQUIRES(shared->mutex) {
      return shared->closed || !shared->jobs.empty();
    });
    --shared->idle;
    if (shared->jobs.empty()) return;
    auto job = std::move(shared->jobs.front());
    shared->jobs.pop_front();
    const MutexUnlock unlocked(shared->mutex);
    job();
    job = nullptr;  // what it holds goes before the next job comes
  }
}

void Workers::close() {
  std::vector<std::thread> threads;
  {
    const MutexLock lock(shared_->mutex);
    shared_->closed = true;
    threads.swap(threads_);
    shared_->wake.notify_all();
  }
  for (std::thread& thread : threads) {
    if (thread.get_id() == std::this_thread::get_id())
      thread.detach();
    else
      thread.join();
  }
}

}  // namespace lockstep::pytorch
