#include "python/torch/errors.h"

#include <deque>

#include "comm/peer_failure.h"
#include "core/base/mutex.h"

namespace lockstep::pytorch {
namespace {

// A failure ends its group, so few messages are alive at any time.
constexpr size_t kRemembered = 64;

struct Failures {
  Mutex mutex;
  std::deque<std::string> by_peers LOCKSTEP_GUARDED_BY(mutex);
};

// Never destroyed: threads may fail while the process ends.
Failures& failures() {
  static auto* const all = new Failures;
  return *all;
}

}  // namespace

void remember_failure(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    if (!comm::caused_by_peer(e)) return;
    Failures& all = failures();
    const MutexLock lock(all.mutex);
    all.by_peers.emplace_back(e.what());
    if (all.by_peers.size() > kRemembered) all.by_peers.pop_front();
  } catch (...) {  // not an error of lockstep
  }
}

bool is_peer_failure(const std::string& text) {
  Failures& all = failures();
  const MutexLock lock(all.mutex);
  for (const std::string& message : all.by_peers)
    if (text.find(message) != std::string::npos) return true;
  return false;
}

}  // namespace lockstep::pytorch
