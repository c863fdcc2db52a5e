// The process's only access to MPI. Every MPI call is made under this lock (MPI_THREAD_SERIALIZED)
// and returns at once; waits poll, with limits. Calls that cannot be polled (MPI_Init, creating a
// communicator) run in a thread of their own, which can be given up.
//
// Open MPI 4 cannot recover from a failure in the middle of a transfer: it may write to the
// buffer at any later time. After such a failure the process makes no MPI call any more
// (retire()), so nothing is written late to memory with a new owner. Every further use
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

// Each group has a context of its own, and each context has four tags. A process never uses a
// context twice.
inline constexpr int kCreationContext = 0;  // ranks agree on the context of a group
inline constexpr int kStoreContext = 1;
inline constexpr int kFirstFreeContext = 2;
inline constexpr int kTagsPerContext = 4;

// Throws EnvironmentError with MPI's text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

class Runtime {
 public:
  // Initialises MPI at the first call, to which all ranks must come. Throws UsageError outside of
  // an MPI job, TimeoutError if MPI does not start before the deadline.
  static Runtime& start(Deadline deadline);
  // Returns the runtime without initialising MPI. Until start() is called it is a single rank and
  // makes no MPI call.
  static Runtime& instance();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // A copy of MPI_COMM_WORLD, so our messages never meet those of a program that uses MPI itself.
  MPI_Comm world() const { return world_; }

  // Runs f() while no other thread is in MPI; f must not block.
  // The analysis cannot know that the mutex that f requires is this one.
  template <typename F>
  decltype(auto) locked(F&& f) LOCKSTEP_EXCLUDES(mutex_) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
    const MutexLock lock(mutex_);
    check_usable();
    return f();
  }
  // Runs f(), which may block for peers, and keeps all other threads out of MPI meanwhile. After a
  // TimeoutError, MPI is retired.
  void blocking(std::string_view what, Deadline deadline, std::function<void()> f);

  // Sends a small message without waiting for it.
  void post(int world_rank, int tag, std::string bytes);

  // Call these two only under locked(), in functions with LOCKSTEP_REQUIRES(runtime.mutex()).
  // Keeps the bytes of a send that nobody waits for, until the send is done.
  void keep(MPI_Request request, std::unique_ptr<std::string> bytes) LOCKSTEP_REQUIRES(mutex_);
  // Forbids all further MPI calls. The first reason counts.
  void retire(const std::string& reason) LOCKSTEP_REQUIRES(mutex_);
  Mutex& mutex() LOCKSTEP_RETURNS(mutex_) { return mutex_; }

  // Returns a context that this rank hands out when it leads the creation of a group. No other rank
  // hands out the same one.
  int take_context();

  // "pid 71 on node5, stopped": describes a process of the job as far as it is known.
  std::string describe(int world_rank) const;
  // The process id if the process is on this host, else 0.
  int local_pid(int world_rank) const;

  // `f` runs before MPI is finalised, after all ranks have reached the end.
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
  bool owner_ = false;  // whether we initialised MPI, and so finalise it
  int rank_ = 0;
  int size_ = 1;
  int last_tag_ = 0;
  MPI_Comm world_ = MPI_COMM_NULL;
  std::vector<Host> hosts_;  // by rank

  Mutex mutex_;  // also held during every MPI call
  std::optional<std::string> retired_ LOCKSTEP_GUARDED_BY(mutex_);
  std::list<Posted> posted_ LOCKSTEP_GUARDED_BY(mutex_);
  int contexts_taken_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> at_end_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm::mpi
