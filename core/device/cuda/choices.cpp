#include "core/device/cuda/choices.h"

#include <set>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/device/cuda_device.h"

namespace lockstep::cuda {
namespace {

struct Choices {
  Mutex mutex;
  std::set<std::string> lines LOCKSTEP_GUARDED_BY(mutex);
};
Choices& all() {
  static auto* all = new Choices;
  return *all;
}

}  // namespace

void record_choice(const std::string& what, const std::string& how) {
  const MutexLock lock(all().mutex);
  all().lines.insert(str(what, ": ", how));
}

std::vector<std::string> choices() {
  const MutexLock lock(all().mutex);
  return {all().lines.begin(), all().lines.end()};
}

}  // namespace lockstep::cuda
