// FlightRecorder: the last calls of a group with their times, for reports of hangs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/engine/fingerprint.h"
#include "core/base/clock.h"
#include "core/base/mutex.h"

namespace lockstep::comm {

// Thread-safe.
class FlightRecorder {
 public:
  // So many calls are remembered.
  static constexpr size_t kKept = 64;

  // Returns the entry's number, for the calls below; they do nothing when the entry has been
  // written over since.
  uint64_t submitted(const Fingerprint& call);
  void started(uint64_t entry);
  void finished(uint64_t entry, bool well);

  // Oldest first: "all_reduce #12 (f32, 1000 elements, sum): took 1.20 ms, ended 3.4 s ago".
  std::vector<std::string> lines() const { return excerpt(kKept).shown; }

  // The same, in two parts: what is running or queued with the last `ended` of those that have
  // ended, and the others.
  struct Excerpt {
    std::vector<std::string> left_out, shown;
  };
  Excerpt excerpt(size_t ended) const;

 private:
  struct Entry {
    uint64_t number = 0;  // from 1; 0: unused
    Fingerprint call;
    Clock::time_point submitted{}, started{}, finished{};
    bool well = false;
  };
  Entry* find(uint64_t number) LOCKSTEP_REQUIRES(mutex_);
  static std::string line(const Entry& entry, Clock::time_point now);

  mutable Mutex mutex_;
  std::array<Entry, kKept> ring_ LOCKSTEP_GUARDED_BY(mutex_);
  uint64_t last_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
};

}  // namespace lockstep::comm
