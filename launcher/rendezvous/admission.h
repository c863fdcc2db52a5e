// What a process checks before it trusts whoever answers at an endpoint, and why nobody lets it in.
#pragma once

#include <string>

#include "launcher/rendezvous/endpoint.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {

// Throws UsageError if this process must not talk to `server`: it has no token, and the server is
// on another machine or of another user. A host that cannot be resolved passes; ask again once
// somebody answers.
void check_may_trust(const Endpoint& server, const Trust& trust);

// Asks whether the server wants another token, or none. Takes about a second at most. Returns an
// empty text if all is well, or if nobody can be reached.
std::string why_not_let_in(const Endpoint& server, const Trust& trust);

// For a process that tries again and again to connect.
class Knocking {
 public:
  Knocking(const Endpoint& server, const Trust& trust) : server_(server), trust_(trust) {}
  // Call after an attempt that did not succeed. Throws UsageError if the server answers, but does
  // not let this process in, several times in a row: a server that is short of files breaks off,
  // too.
  void failed();

 private:
  const Endpoint server_;
  const Trust trust_;
  int refusals_ = 0;
};

}  // namespace lockstep::launcher
