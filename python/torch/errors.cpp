#include "python/torch/errors.h"

#include <deque>
#include <mutex>

#include "comm/peer_failure.h"

namespace lockstep::pytorch {
namespace {

// A failure ends its group, so few messages are alive at any time.
constexpr size_t kRemembered = 64;

struct Failures {
  std::mutex mutex;
  std::deque<std::string> by_peers;  // guarded by mutex
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
    std::lock_guard lock(failures().mutex);
    failures().by_peers.emplace_back(e.what());
    if (failures().by_peers.size() > kRemembered) failures().by_peers.pop_front();
  } catch (...) {  // not an error of lockstep
  }
}

bool is_peer_failure(const std::string& text) {
  std::lock_guard lock(failures().mutex);
  for (const std::string& message : failures().by_peers)
    if (text.find(message) != std::string::npos) return true;
  return false;
}

}  // namespace lockstep::pytorch
