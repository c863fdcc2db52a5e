#include "comm/mpi/runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

#include <unistd.h>

#include "comm/engine/failure_note.h"
#include "comm/engine/process_look.h"
#include "comm/mpi/backoff.h"
#include "comm/mpi/job.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/thread.h"

namespace lockstep::comm::mpi {
namespace {

// How long an exiting process waits for the other ranks: long, as one may still write a checkpoint;
// short after a failure in any group of any backend, as the others may never come.
constexpr auto kEndLimit = std::chrono::seconds(60);
constexpr auto kEndLimitAfterFailure = std::chrono::seconds(2);

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw EnvironmentError(str("[mpi] ", call, " failed: ", text));
}

// Never destroyed: threads may still use it while static objects are destroyed.
Runtime& Runtime::instance() {
  static Runtime& runtime = *new Runtime;
  return runtime;
}

Runtime& Runtime::start(Deadline deadline) {
  Runtime& runtime = instance();
  const MutexLock lock(runtime.starting_);
  if (!runtime.initialised_) runtime.initialise(deadline);
  return runtime;
}

void Runtime::initialise(Deadline deadline) {
  const auto job = mpi_job();
  check(job.has_value(),
        "[mpi] this process was not started by mpirun; start it with: mpirun -np RANKS PROGRAM");
  blocking("MPI_Init: some ranks have not reached it", deadline, [this] {
    int done = 0;
    check_mpi(MPI_Initialized(&done), "MPI_Initialized");
    int provided = MPI_THREAD_SINGLE;
    if (done)
      check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread");
    else
      check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided),
                "MPI_Init_thread");
    if (provided < MPI_THREAD_SERIALIZED)
      throw EnvironmentError(
          "[mpi] MPI lacks MPI_THREAD_SERIALIZED; initialise it with that level or leave it to "
          "lockstep");
    owner_ = !done;
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(world_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(world_, &size_), "MPI_Comm_size");
    int* last_tag = nullptr;
    int known = 0;
    check_mpi(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &last_tag, &known),
              "MPI_Comm_get_attr");
    last_tag_ = known ? *last_tag : 32767;
    Host mine{};
    gethostname(mine.name, sizeof mine.name - 1);
    mine.pid = static_cast<int>(getpid());
    hosts_.resize(static_cast<size_t>(size_));
    check_mpi(
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, hosts_.data(), sizeof mine, MPI_BYTE, world_),
        "MPI_Allgather");
  });
  initialised_ = true;
  // This also creates the logger before our exit handler, so the logger outlives the handler.
  log::debug("mpi: rank ", rank_, " of ", size_);
  std::atexit([] { instance().finalise(); });
}

void Runtime::check_usable() const {
  if (retired_)
    throw EnvironmentError(str("[mpi] MPI can no longer be used in this process: ", *retired_));
}

void Runtime::blocking(std::string_view what, Deadline deadline, std::function<void()> f) {
  const MutexLock lock(mutex_);
  check_usable();
  // The thread owns everything that it touches, because the caller may give it up. It shares only
  // the runtime, which is never destroyed.
  std::packaged_task<void()> task(std::move(f));
  std::future<void> done = task.get_future();
  start_thread("for a call of MPI", std::move(task)).detach();
  if (done.wait_until(deadline.at()) == std::future_status::timeout) {
    retire(str(what));
    throw TimeoutError(str("[mpi] ", what));
  }
  done.get();
}

void Runtime::retire(const std::string& reason) {
  note_failure();
  if (!retired_) retired_ = reason;
}

void Runtime::post(int world_rank, int tag, std::string bytes) {
  locked([&]() LOCKSTEP_REQUIRES(mutex_) {
    reap_posted();
    auto copy = std::make_unique<std::string>(std::move(bytes));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Isend(copy->data(), static_cast<int>(copy->size()), MPI_BYTE, world_rank, tag,
                        world_, &request),
              "MPI_Isend");
    keep(request, std::move(copy));
  });
}

void Runtime::keep(MPI_Request request, std::unique_ptr<std::string> bytes) {
  posted_.push_back({request, std::move(bytes)});
}

void Runtime::reap_posted() {
  posted_.remove_if([](Posted& entry) {
    int done = 0;
    return MPI_Test(&entry.request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done != 0;
  });
}

int Runtime::take_context() {
  const MutexLock lock(mutex_);
  const int64_t context = kFirstFreeContext + int64_t{contexts_taken_++} * size_ + rank_;
  if ((context + 1) * kTagsPerContext > last_tag_)
    throw EnvironmentError("[mpi] too many groups: MPI's message tags are used up");
  return static_cast<int>(context);
}

int Runtime::local_pid(int world_rank) const {
  const Host& host = hosts_[static_cast<size_t>(world_rank)];
  return std::strcmp(host.name, hosts_[static_cast<size_t>(rank_)].name) == 0 ? host.pid : 0;
}

std::string Runtime::describe(int world_rank) const {
  const Host& host = hosts_[static_cast<size_t>(world_rank)];
  const std::string text = str("pid ", host.pid, " on ", host.name);
  if (local_pid(world_rank) == 0) return text;
  const auto look = look_at_process(host.pid);
  return !look ? text + ", dead" : look->stopped() ? text + ", stopped" : text;
}

// A barrier that gives up at a limit; then it returns false.
bool Runtime::all_at_end() {
  MPI_Request request = MPI_REQUEST_NULL;
  const Deadline deadline = locked([&] {
    check_mpi(MPI_Ibarrier(world_, &request), "MPI_Ibarrier");
    return Deadline::after(failure_noted() ? kEndLimitAfterFailure : kEndLimit);
  });
  Backoff backoff;
  for (;;) {
    int done = 0;
    locked([&] { check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test"); });
    if (done) return true;
    if (deadline.passed()) return false;
    backoff.pause();
  }
}

void Runtime::finalise() noexcept {
  std::string why;
  try {
    if (!all_at_end()) why = "other ranks have not reached the end of the job";
  } catch (const Error& error) {
    why = error.what();
  }
  try {
    std::vector<std::function<void()>> last;
    {
      const MutexLock lock(mutex_);
      last.swap(at_end_);
    }
    for (const auto& f : last) f();
    const MutexLock lock(mutex_);
    retire("the process is at its end");
    // MPI_Finalize would wait for the others without a limit. mpirun ends the rest of the job.
    if (!why.empty()) return log::warn("mpi: leaving without MPI_Finalize: ", why);
    if (owner_) check_mpi(MPI_Finalize(), "MPI_Finalize");
  } catch (const Error& error) {
    log::warn("mpi: ", error.what());
  }
}

}  // namespace lockstep::comm::mpi
