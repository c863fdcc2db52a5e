#include "comm/ucx/pending.h"

#include <set>

namespace lockstep::comm::ucx {

std::vector<int> Pending::peers_of(Request::Kind kind) const {
  std::set<int> peers;
  for (const Request& r : requests)
    if (!r.done && r.kind == kind) peers.insert(r.peer);
  return {peers.begin(), peers.end()};
}

size_t Pending::peers() const {
  std::set<int> peers;
  for (const Request& r : requests) peers.insert(r.peer);
  return peers.size();
}

const Request* Pending::first_failed() const {
  for (const Request& r : requests)
    if (r.done && r.status != UCS_OK) return &r;
  return nullptr;
}

}  // namespace lockstep::comm::ucx
