// The process's one door to MPI. Every MPI call is made under its lock (MPI_THREAD_SERIALIZED) and
// returns at once; waiting is polling, with limits. What cannot be polled (MPI_Init, creating a
// communicator) runs in a thread of its own that can be given up.
//
// Open MPI 4 cannot recover from a failure in the middle of a transfer: a buffer that MPI may still
// write to belongs to it for good. After such a failure the process makes no MPI call any more
// (retire()), so that nothing is written late into memory that has a new owner, and every use
// throws.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <mpi.h>

#include "core/base/clock.h"
#include "core/base/mutex.h"

namespace lockstep::comm::mpi {

// Tags: each group has a context of its own, and a context four tags. Contexts are never used twice
// in a process.
inline constexpr int kCreationContext = 0;  // ranks agree on the context of a group
inline constexpr int kStoreContext = 1;
inline constexpr int kFirstFreeContext = 2;
inline constexpr int kTagsPerContext = 4;

// Throws EnvironmentError with MPI's text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

class Runtime {
 public:
  // Initialises MPI at the first call; all ranks must come. Throws UsageError outside an MPI job,
  // TimeoutError when MPI does not start before the deadline.
  static Runtime& start(Deadline deadline);
  // The same without initialising: a single rank, until start() has been called. Makes no MPI call
  // then.
  static Runtime& instance();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // A copy of MPI_COMM_WORLD: messages never meet those of a program that uses MPI itself.
  MPI_Comm world() const { return world_; }

  // Runs f() while no other thread is in MPI. f must not block.
  // The analysis cannot know that the mutex that f requires is this one.
  template <typename F>
  decltype(auto) locked(F&& f) LOCKSTEP_EXCLUDES(mutex_) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
    const MutexLock lock(mutex_);
    check_usable();
    return f();
  }
  // Runs f(), which may block for peers, and keeps all others out of MPI meanwhile. After a
  // TimeoutError MPI is retired.
  void blocking(std::string_view what, Deadline deadline, std::function<void()> f);

  // Sends a small message that nobody waits for.
  void post(int world_rank, int tag, std::string bytes);

  // These two only under locked(), by functions that say LOCKSTEP_REQUIRES(runtime.mutex()).
  // Keeps the bytes of a send that nobody waits for any more until it is done.
  void keep(MPI_Request request, std::unique_ptr<std::string> bytes) LOCKSTEP_REQUIRES(mutex_);
  // No MPI call is made any more. The first reason stays.
  void retire(const std::string& reason) LOCKSTEP_REQUIRES(mutex_);
  Mutex& mutex() LOCKSTEP_RETURNS(mutex_) { return mutex_; }

  // Contexts that this rank hands out when it leads the creation of a group; no other rank hands
  // out the same.
  int take_context();

  // "pid 71 on node5, stopped": what is known about a process of the job.
  std::string describe(int world_rank) const;
  // The process, if it is on this host, else 0.
  int local_pid(int world_rank) const;

  // Runs before MPI is finalised, after all ranks have come to their end.
  void at_end(std::function<void()> f) {
    const MutexLock lock(mutex_);
    at_end_.push_back(std::move(f));
  }

 private:
  struct Host {
    char name[64];
    int pid;
  };
  struct Posted {
    MPI_Request request;
    std::unique_ptr<std::string> bytes;
  };

  Runtime() = default;
  void initialise(Deadline deadline) LOCKSTEP_REQUIRES(starting_);
  void finalise() noexcept;
  bool all_at_end();
  void check_usable() const LOCKSTEP_REQUIRES(mutex_);
  void reap_posted() LOCKSTEP_REQUIRES(mutex_);

  Mutex starting_;
  bool initialised_ LOCKSTEP_GUARDED_BY(starting_) = false;
  // Constant once the runtime is initialised.
  bool owner_ = false;  // whoever initialises finalises
  int rank_ = 0;
  int size_ = 1;
  int last_tag_ = 0;
  MPI_Comm world_ = MPI_COMM_NULL;
  std::vector<Host> hosts_;  // by rank

  Mutex mutex_;  // of every call of MPI, too
  std::optional<std::string> retired_ LOCKSTEP_GUARDED_BY(mutex_);
  std::list<Posted> posted_ LOCKSTEP_GUARDED_BY(mutex_);
  int contexts_taken_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> at_end_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm::mpi
