#include "core/base/parallel.h"

#include <atomic>
#include <exception>

#include <omp.h>

#include "core/base/error.h"

namespace lockstep {

void set_num_threads(int threads) {
  check(threads >= 1, "[set_num_threads] expected at least 1 thread, got ", threads);
  omp_set_num_threads(threads);
}

int num_threads() { return omp_get_max_threads(); }

void parallel_for(int64_t pieces, const std::function<void(int64_t)>& body) {
  if (pieces <= 1 || num_threads() == 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < pieces; ++i) body(i);
    return;
  }
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < pieces; ++i) {
    if (failed.load(std::memory_order_relaxed)) continue;
    try {
      body(i);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace lockstep
