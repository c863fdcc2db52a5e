#include "python/torch/core.h"

#include <vector>

#include "core/base/error.h"
#include "core/base/mutex.h"

namespace lockstep::pytorch {
namespace {

struct Living {
  Mutex mutex;
  std::vector<std::weak_ptr<Core>> cores LOCKSTEP_GUARDED_BY(mutex);
};

// Never destroyed: groups may outlive static objects.
Living& living() {
  static auto* const all = new Living;
  return *all;
}

std::vector<std::shared_ptr<Core>> all_living() {
  std::vector<std::shared_ptr<Core>> cores;
  Living& all = living();
  const MutexLock lock(all.mutex);
  for (const auto& weak : all.cores)
    if (auto core = weak.lock(); core && core->is_own()) cores.push_back(std::move(core));
  return cores;
}

comm::Reduction reduction_named(const std::string& name) {
  check(name == "tree" || name == "fast", "[torch] reduction must be 'tree' or 'fast', got '", name,
        "'");
  return name == "tree" ? comm::Reduction::tree : comm::Reduction::fast;
}

}  // namespace

std::shared_ptr<Core> Core::create(const std::shared_ptr<comm::Store>& store, int rank, int size,
                                   const std::string& name, Duration timeout,
                                   const Settings& settings) {
  comm::GroupOptions options{
      .name = name, .timeout = timeout, .reduction = reduction_named(settings.reduction)};
  const std::shared_ptr<Core> core(new Core);
  core->group_ = comm::create(settings.backend, store, rank, size, options);
  options.name = str(name, " (all_to_all)");
  core->exchange_ = std::make_unique<Exchange>(
      comm::create(settings.backend, store, rank, size, options),
      [self = core.get()](const std::string& reason) { self->group_->abort(reason); });
  Living& all = living();
  const MutexLock lock(all.mutex);
  std::erase_if(all.cores, [](const auto& weak) { return weak.expired(); });
  all.cores.push_back(core);
  return core;
}

Core::~Core() {
  if (!is_own()) {
    // A forked child has none of the threads, and the shared memory is its parent's to leave.
    static_cast<void>(exchange_.release());
    static_cast<void>(group_.release());
    static_cast<void>(new std::shared_ptr<Workers>(workers_));
    return;
  }
  exchange_.reset();
  group_.reset();
  workers_->close();
}

void Core::check_usable(std::string_view op) const {
  check(is_own(), "[torch] ", op, ": this process was forked from rank ", group_->rank(), " (pid ",
        pid_, ") of group '", group_->name(),
        "', and a child cannot use its parent's group; start the child with the 'spawn' method and "
        "let it make a group of its own");
}

void Core::abort(const std::string& reason) {
  group_->abort(reason);
  exchange_->abort(reason);
}

void abort_all(const std::string& reason) {
  for (const auto& core : all_living()) core->abort(reason);
}

void close_all() {
  for (const auto& core : all_living()) core->workers()->close();
}

}  // namespace lockstep::pytorch
