// What a process group of torch.distributed has of lockstep, and the list of all of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <unistd.h>

#include "comm/process_group.h"
#include "comm/store.h"
#include "python/torch/exchange.h"
#include "python/torch/workers.h"

namespace lockstep::pytorch {

// What a user chooses (lockstep.torch.Options).
struct Settings {
  std::string backend = "auto";  // of comm::create
  std::string reduction = "tree";
};

// Thread-safe.
class Core {
 public:
  // Every rank of the group makes one. Throws as comm::create does.
  static std::shared_ptr<Core> create(const std::shared_ptr<comm::Store>& store, int rank, int size,
                                      const std::string& name, Duration timeout,
                                      const Settings& settings);
  // Waits for all calls; each has a limit.
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  comm::ProcessGroup& group() { return *group_; }
  Exchange& exchange() { return *exchange_; }
  const std::shared_ptr<Workers>& workers() { return workers_; }
  // False in a forked child of the process that made the group.
  bool is_own() const { return ::getpid() == pid_; }
  // Throws UsageError unless is_own(). `op`: "all_reduce".
  void check_usable(std::string_view op) const;
  // Ends the group on all ranks.
  void abort(const std::string& reason);

 private:
  Core() = default;

  const pid_t pid_ = ::getpid();
  std::shared_ptr<Workers> workers_ = std::make_shared<Workers>();
  std::unique_ptr<comm::ProcessGroup> group_;
  std::unique_ptr<Exchange> exchange_;
};

// All groups that this process made. Thread-safe.
void abort_all(const std::string& reason);
// Before Python ends: waits for the futures that are under way. Later ones have no threads.
void close_all();

}  // namespace lockstep::pytorch
