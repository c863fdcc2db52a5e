#include "core/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <limits>
#include <string_view>
#include <thread>
#include <utility>

#include <pthread.h>

#include "core/base/clock.h"
#include "core/base/cores.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/base/number_text.h"

namespace lockstep {
namespace {

// How long a thread spins for work, or for another thread's last piece, before it sleeps. Kernels
// follow one another within microseconds, and waking a thread costs several. On a busy machine,
// though, the other thread may not run for a whole time slice.
constexpr Duration kLookOut = std::chrono::microseconds(20);

using Body = std::function<void(int64_t)>;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Ready>
bool look_out(const Ready& ready) {
  if (ready()) return true;
  const Deadline deadline = Deadline::after(kLookOut);
  do {
    for (int i = 0; i < 16; ++i) {
      relax();
      if (ready()) return true;
    }
  } while (!deadline.passed());
  return false;
}

int default_threads() {
  const char* variable = std::getenv("OMP_NUM_THREADS");
  if (!variable || !*variable) return usable_cores();
  const std::string_view text(variable);
  std::string_view first = text.substr(0, text.find(','));
  // White space around the numbers is allowed, as in OpenMP.
  constexpr const char* kSpace = " \t\n\v\f\r";
  first.remove_prefix(std::min(first.find_first_not_of(kSpace), first.size()));
  first = first.substr(0, first.find_last_not_of(kSpace) + 1);
  const int threads = parse_number<int>(first).value_or(0);
  check(threads >= 1, "OMP_NUM_THREADS: expected a number of threads from 1 to ",
        std::numeric_limits<int>::max(), ", got '", text,
        "'; set it right, or unset it for one thread a core");
  return threads;
}

// If memory is too short even for this message, num_threads() still shows the number.
void warn_of_missing_threads(const char* reason, int granted, int wanted) noexcept {
  try {
    log::warn("[parallel] the system grants no more threads (", reason, "): computing with ",
              granted, " instead of ", wanted);
  } catch (const std::exception&) {
  }
}

// True while this thread computes a piece or is in a OneThreadScope.
thread_local bool in_body = false;

class Team {
 public:
  // The team of this process. Never destroyed: workers sleep in it until the process ends.
  static Team& instance() {
    static Team& team = *new Team;
    return team;
  }

  int size() {
    if (const int known = size_.load(std::memory_order_relaxed)) return known;
    int unknown = 0;
    const int threads = default_threads();
    return size_.compare_exchange_strong(unknown, threads) ? threads : unknown;
  }

  void resize(int threads) {
    size_ = threads;
    posted_.fetch_add(1);
    posted_.notify_all();  // surplus workers leave
  }

  // On success, the team belongs to the calling thread until run() returns.
  bool try_take() {
    return !taken_.load(std::memory_order_relaxed) &&
           !taken_.exchange(true, std::memory_order_acquire);
  }

  // Computes the pieces [first, pieces) and releases the team.
  void run(int64_t first, int64_t pieces, const Body& body) {
    body_ = &body;
    pieces_ = pieces;
    failure_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    finished_.store(0, std::memory_order_relaxed);
    left_.store(pieces - first);
    call(static_cast<int>(std::min<int64_t>(size() - 1, pieces - first - 1)));
    int64_t piece, own = 0;
    for (; claim(piece); ++own) compute(piece);
    // Pieces of the workers. At most as many as there are workers are unfinished at a time, so 32
    // bits are enough.
    const auto others = static_cast<uint32_t>(pieces - first - own);
    if (!look_out([&] { return finished_.load(std::memory_order_acquire) == others; }))
      for (uint32_t seen = finished_.load(); seen != others; seen = finished_.load())
        finished_.wait(seen);
    const std::exception_ptr failure = std::exchange(failure_, nullptr);
    taken_.store(false, std::memory_order_release);
    if (failure) std::rethrow_exception(failure);
  }

 private:
  Team() { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

  // Claims a piece that no thread has begun. `left_` alone decides who gets it. A call stays in
  // run() while any claimed piece is unfinished. So its other fields may be read after the step
  // from n to n - 1 succeeded, and never before.
  bool claim(int64_t& piece) {
    int64_t left = left_.load(std::memory_order_relaxed);
    while (left > 0)
      if (left_.compare_exchange_weak(left, left - 1, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        piece = pieces_ - left;
        return true;
      }
    return false;
  }

  void compute(int64_t piece) {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      (*body_)(piece);
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
  }

  // Wakes `helpers` workers, and starts those that are missing.
  void call(int helpers) {
    // Both sides are sequentially consistent. So either the sleeper sees the new value, or we see
    // the sleeper.
    posted_.fetch_add(1);
    for (int sleepers = std::min(helpers, sleepers_.load()); sleepers > 0; --sleepers)
      posted_.notify_one();
    if (workers_.load(std::memory_order_relaxed) < helpers) start(helpers);
  }

  void start(int helpers) LOCKSTEP_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    // Workers block signals, which are for the program's own threads. Exceptions: a profiler's
    // signal, and those that a thread raises itself.
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPROF})
      sigdelset(&blocked, signal);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    try {
      for (; workers_ < helpers; ++workers_) std::thread(&Team::live, this).detach();
    } catch (const std::exception& error) {
      // std::system_error, or std::bad_alloc if memory is short.
      const int wanted = size_.exchange(workers_ + 1);
      warn_of_missing_threads(error.what(), workers_ + 1, wanted);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  // The life of a worker. It ends with the process, or when the team has too many workers.
  void live() {
    in_body = true;
    for (;;) {
      const uint32_t seen = posted_.load();
      const bool found = look_out([this] { return left_.load(std::memory_order_relaxed) > 0; });
      if (is_surplus()) return;
      if (!found) {
        sleepers_.fetch_add(1);
        posted_.wait(seen);
        sleepers_.fetch_sub(1);
        continue;
      }
      for (int64_t piece; claim(piece);) {
        compute(piece);
        finished_.fetch_add(1);
        finished_.notify_one();
      }
    }
  }

  // If this worker is one too many, removes it from the count.
  bool is_surplus() LOCKSTEP_EXCLUDES(mutex_) {
    if (workers_.load() < size_.load()) return false;
    const MutexLock lock(mutex_);
    if (workers_ < size_) return false;
    --workers_;
    return true;
  }

  // The lock is held across a fork: before_fork() takes it, and one of the two others releases it.
  // The analysis cannot follow that.
  static void before_fork() LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS { instance().mutex_.lock(); }
  static void after_fork_in_parent() LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
    instance().mutex_.unlock();
  }
  static void after_fork_in_child() LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
    Team& team = instance();
    team.left_ = 0;
    team.workers_ = team.sleepers_ = 0;
    team.taken_ = false;
    team.mutex_.unlock();
  }

  // The current call. Its thread writes these while nothing is claimed; threads with a claim read
  // them.
  const Body* body_ = nullptr;
  int64_t pieces_ = 0;
  std::exception_ptr failure_;  // set by the thread that set failed_
  std::atomic<bool> failed_{false};

  // The number of unclaimed pieces; they are the last ones of the call.
  alignas(64) std::atomic<int64_t> left_{0};
  alignas(64) std::atomic<uint32_t> finished_{0};  // pieces that workers have computed
  alignas(64) std::atomic<uint32_t> posted_{0};    // grows with every call; workers sleep on it
  std::atomic<int> sleepers_{0};

  alignas(64) std::atomic<bool> taken_{false};
  std::atomic<int> size_{0};     // 0: not determined yet
  std::atomic<int> workers_{0};  // number of living workers; written with mutex_ held, read without
  Mutex mutex_;
};

}  // namespace

void set_num_threads(int threads) {
  check(threads >= 1, "[set_num_threads] expected at least 1 thread, got ", threads);
  Team::instance().resize(threads);
}

int num_threads() { return Team::instance().size(); }

OneThreadScope::OneThreadScope() : before_(std::exchange(in_body, true)) {}
OneThreadScope::~OneThreadScope() { in_body = before_; }

void parallel_for(int64_t pieces, const Body& body) {
  if (pieces <= 1 || in_body || num_threads() == 1) {
    for (int64_t i = 0; i < pieces; ++i) body(i);
    return;
  }
  const OneThreadScope scope;
  Team& team = Team::instance();
  for (int64_t i = 0; i < pieces; ++i) {
    if (team.try_take()) return team.run(i, pieces, body);
    body(i);
  }
}

}  // namespace lockstep
