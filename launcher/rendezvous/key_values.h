// KeyValues: the map behind the store that ranks share, with waiters. It uses no threads, clock or
// gRPC: time is an argument, and waiters are callbacks.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/clock.h"

namespace lockstep::launcher {

// Not thread-safe.
class KeyValues {
 public:
  // Exactly one is called, once: `found` with the values of all keys, or `late` with the first
  // missing key.
  struct Waiter {
    std::function<void(std::vector<std::string> values)> found;
    std::function<void(const std::string& missing)> late;
  };

  void set(const std::string& key, std::string value);
  void get(std::vector<std::string> keys, Duration deadline, Waiter waiter);
  // Throws UsageError if the value is not a number.
  int64_t add(const std::string& key, int64_t delta);
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired);
  // Whoever waits for several keys, of which one is removed after it was there, has its value.
  void remove(const std::vector<std::string>& keys);

  // Ends the waits whose deadline has passed.
  void tick(Duration now);
  std::optional<Duration> next_deadline() const;

 private:
  struct Pending {
    std::vector<std::string> keys;
    std::vector<std::string> values;  // of the first keys, which have been there
    Duration deadline;
    Waiter waiter;
    // The first key that has not been there, where one has not.
    const std::string& missing() const { return keys[values.size()]; }
  };
  using PendingList = std::list<Pending>;

  // Takes the values of keys up to the first that is missing. Whether none is.
  bool complete(Pending& pending) const;
  void wake(const std::string& key);

  std::unordered_map<std::string, std::string> values_;
  PendingList pending_;
  // The waits for each key that does not exist yet.
  std::unordered_map<std::string, std::vector<PendingList::iterator>> waiting_;
  std::multiset<Duration> deadlines_;
};

}  // namespace lockstep::launcher
