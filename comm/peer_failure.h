// Errors that another rank caused. When one rank fails, all others fail as a consequence, and often
// sooner. A search for the root cause must be able to tell the two apart. The families
// (core/base/error.h) stay as they are: a FromPeer<E> is an E.
#pragma once

#include <exception>
#include <string>

namespace lockstep::comm {

struct PeerFailure {};

template <typename Family>
class FromPeer final : public Family, public PeerFailure {
 public:
  using Family::Family;
};

// Whether another rank is the cause: it died, left, aborted, failed or did not come in time.
bool caused_by_peer(const std::exception& error);

// Returns an error of the same family with another message. An error without a family becomes an
// EnvironmentError.
std::exception_ptr reworded(const std::exception& error, const std::string& message, bool by_peer);
inline std::exception_ptr reworded(const std::exception& error, const std::string& message) {
  return reworded(error, message, caused_by_peer(error));
}

}  // namespace lockstep::comm
