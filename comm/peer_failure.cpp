#include "comm/peer_failure.h"

#include "core/base/error.h"

namespace lockstep::comm {
namespace {

template <typename Family>
std::exception_ptr make(const std::string& message, bool by_peer) {
  return by_peer ? std::make_exception_ptr(FromPeer<Family>(message))
                 : std::make_exception_ptr(Family(message));
}

}  // namespace

bool caused_by_peer(const std::exception& error) {
  return dynamic_cast<const PeerFailure*>(&error) != nullptr;
}

std::exception_ptr reworded(const std::exception& error, const std::string& message, bool by_peer) {
  if (dynamic_cast<const UsageError*>(&error)) return make<UsageError>(message, by_peer);
  if (dynamic_cast<const TimeoutError*>(&error)) return make<TimeoutError>(message, by_peer);
  return make<EnvironmentError>(message, by_peer);
}

}  // namespace lockstep::comm
