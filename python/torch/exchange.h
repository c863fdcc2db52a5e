// The all_to_all of slices of any sizes, which comm does not have: each rank sends to and receives
// from every other one.
#pragma once

#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "comm/process_group.h"
#include "core/base/mutex.h"

namespace lockstep::pytorch {

// One exchange. By rank; all are flat.
struct Slices {
  std::vector<Tensor> to, from;
};

// Elements by rank: of the slices that a rank sends, then of those that it expects. i64 [2 ·
// ranks].
std::vector<int64_t> sizes_of(const Slices& slices);

// Has a group of its own, so that these messages never meet those that the user sends, and a
// thread, so that exchanges run one after the other. Thread-safe.
class Exchange {
 public:
  // `failed`: gets the error of an exchange, which ends this group.
  Exchange(std::unique_ptr<comm::ProcessGroup> group,
           std::function<void(const std::string&)> failed);
  ~Exchange();

  // Once `announced` is done: the call by which `sizes` gets the sizes_of() all ranks, one after
  // the other. Where they do not fit each other, every rank gets the same UsageError and sends
  // nothing.
  std::shared_future<void> start(comm::Work announced, Tensor sizes, Slices slices, uint64_t label);
  void abort(const std::string& reason) { group_->abort(reason); }

 private:
  void run(const Slices& slices, uint64_t label);
  void loop();

  const std::unique_ptr<comm::ProcessGroup> group_;
  const std::function<void(const std::string&)> failed_;

  Mutex mutex_;
  Condition wake_;
  std::deque<std::packaged_task<void()>> queue_ LOCKSTEP_GUARDED_BY(mutex_);
  bool stopping_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  std::thread thread_ LOCKSTEP_GUARDED_BY(mutex_);  // until the destructor
};

}  // namespace lockstep::pytorch
