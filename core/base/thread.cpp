#include "core/base/thread.h"

#include <sys/resource.h>

#include "core/base/error.h"

namespace lockstep {
namespace {

std::string limit_text(__rlimit_resource which, rlim_t unit) {
  rlimit limit{};
  if (::getrlimit(which, &limit) != 0) return "unknown";
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_cur / unit);
}

}  // namespace

std::string thread_advice() {
  // In the units of the shell's ulimit: -v counts KiB.
  return str("raise the limit of this user's processes and threads (ulimit -u, now ",
             limit_text(RLIMIT_NPROC, 1), "; or the container's) or of memory (ulimit -v, now ",
             limit_text(RLIMIT_AS, 1024), ")");
}

void throw_no_thread(std::string_view purpose, std::string_view reason) {
  throw EnvironmentError(str("the system grants no thread ", purpose, " (", reason, "): ",
                             thread_advice(), ", or use fewer ranks or threads (OMP_NUM_THREADS)"));
}

}  // namespace lockstep
