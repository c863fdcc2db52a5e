// Newcomers: connections that have not shown yet that they belong to the job. They are few, and
// each has little time. So nobody without the job's token keeps others out.
#pragma once

#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>

#include "core/base/clock.h"
#include "core/base/mutex.h"

namespace lockstep::launcher {

// Thread-safe.
class Newcomers {
 public:
  struct Bounds {
    size_t all = 1024;
    size_t of_address = 256;  // of one host
    // gRPC ends a handshake after 5 s. A process of the job calls soon after that.
    Duration at_most = std::chrono::seconds(20);
  };
  explicit Newcomers(const Bounds& bounds) : bounds_(bounds) {}
  ~Newcomers();
  Newcomers(const Newcomers&) = delete;
  Newcomers& operator=(const Newcomers&) = delete;

  // Takes note of a connected TCP socket, which stays the caller's. Makes room by ending the oldest
  // one if there are too many in all. Returns why the connection cannot be taken, or empty.
  std::string admit(int fd, Clock::time_point now);
  // The connection from `peer`, in gRPC's words ("ipv4:10.0.0.2:4711"), belongs to the job.
  void prove(const std::string& peer);
  // Ends those whose time is up.
  void tick(Clock::time_point now);
  size_t count() const;

 private:
  struct Entry {
    int fd;  // a duplicate: its number cannot come to mean another file
    std::string peer, address;
    Clock::time_point until;
  };
  using Entries = std::list<Entry>;

  void drop(Entries::iterator entry, bool end) LOCKSTEP_REQUIRES(mutex_);

  const Bounds bounds_;
  mutable Mutex mutex_;
  Entries entries_ LOCKSTEP_GUARDED_BY(mutex_);  // the oldest first
  std::unordered_map<std::string, Entries::iterator> by_peer_ LOCKSTEP_GUARDED_BY(mutex_);
  std::unordered_map<std::string, size_t> of_address_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::launcher
