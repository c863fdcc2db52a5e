// The store for ranks that another launcher started. Rank 0 serves it from its own process.
#pragma once

#include <memory>
#include <string>

#include "comm/store.h"
#include "core/base/clock.h"
#include "launcher/rendezvous/endpoint.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {

// One rank that asks to be admitted.
struct Entrant {
  // Equal on all ranks of a job. Empty: nothing is known that tells jobs apart.
  std::string job = {};
  int rank = 0;
  int size = 1;
};

// Rank 0 serves the store at `at`, which admits every rank of its job. The store has a random id
// that only admitted ranks know. The server ends with rank 0's store. Rank 0 waits for the other
// ranks to release theirs: at most 10 s, or 1 s after an exception.
//
// Throws:
// - UsageError that names both jobs if another job's store is at `at`, or if another process
//   already is this rank
// - AddressInUse if another program listens there
// - EnvironmentError if nobody answers within `limit`
// `trust` must be equal on all ranks. Without a token, only ranks of this machine and user get in.
std::shared_ptr<comm::Store> served_store(const Endpoint& at, const Entrant& self, Duration limit,
                                          const Trust& trust = {});

}  // namespace lockstep::launcher
