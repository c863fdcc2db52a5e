// The store of ranks that another launcher started: rank 0 serves it from its own process.
#pragma once

#include <memory>
#include <string>

#include "comm/store.h"
#include "core/base/clock.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// One rank, as it asks to be taken in.
struct Entrant {
  // Equal on all ranks of a job; empty: nothing is known that would tell jobs apart.
  std::string job = {};
  int rank = 0;
  int size = 1;
};

// Rank 0 serves the store at `at`, and every rank of its job is taken in there. What it serves is
// called by a random id, which only those that were taken in know. The server ends with the store
// of rank 0, which waits for the others to let go of theirs: 10 s at most, 1 s after an exception.
// Throws UsageError that names both jobs where another job's store is there, or another process is
// this rank already; AddressInUse where another program listens; EnvironmentError where nobody
// answers within `limit`.
std::shared_ptr<comm::Store> served_store(const Endpoint& at, const Entrant& self, Duration limit);

}  // namespace lockstep::launcher
