// Pending: the UCX requests of one exchange.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <vector>

#include <ucp/api/ucp.h>

#include "core/base/clock.h"
#include "core/base/mutex.h"

namespace lockstep::comm::ucx {

class Worker;
struct Pending;

// Messages up to this size are sent from a copy, so that giving them up touches nobody's memory.
// Fingerprints are such messages.
inline constexpr size_t kSmall = 256;

// Its address stays the same while UCX knows it.
struct Request {
  enum class Kind { send, receive };
  Kind kind = Kind::send;
  int peer = -1;
  size_t bytes = 0;
  size_t* got = nullptr;  // not null: a received message may be shorter, and is this long
  bool copied = false;    // `copy` is sent, not the caller's memory
  std::array<std::byte, kSmall> copy;
  void* handle = nullptr;  // UCX's, while it is under way
  bool done = false;
  ucs_status_t status = UCS_OK;
  Pending* owner = nullptr;  // null: nobody waits for it any more
};

// Of one thread; everything in it only under the worker's mutex.
struct Pending {
  explicit Pending(Worker& of) : worker(&of) {}

  Worker* const worker;
  std::deque<Request> requests;
  size_t unfinished = 0;
  bool failed = false;  // some request has ended badly
  Condition changed;    // for the thread that waits for it, while another one moves data
  bool moved = false;   // something has happened since it last looked
  bool listed = false;  // the worker knows that it waits
  Clock::time_point quiet_since = Clock::now();  // when data last moved, in any exchange

  bool done() const { return unfinished == 0; }
  // Ranks from which something is missing, or that have not taken something; sorted, each once.
  std::vector<int> unfinished_from() const { return peers_of(Request::Kind::receive); }
  std::vector<int> unfinished_to() const { return peers_of(Request::Kind::send); }
  // How many ranks it has to do with.
  size_t peers() const;
  // The first that has ended badly, or null.
  const Request* first_failed() const;

 private:
  std::vector<int> peers_of(Request::Kind kind) const;
};

}  // namespace lockstep::comm::ucx
