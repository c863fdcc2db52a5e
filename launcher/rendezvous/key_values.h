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

// What a store holds at most. Whatever would pass a limit is a UsageError, and changes nothing.
struct StoreLimits {
  size_t bytes = size_t{256} << 20;  // keys and values, and what waits hold of them
  size_t keys = size_t{1} << 20;
  size_t waits = size_t{1} << 17;
  size_t key_bytes = size_t{4} << 10;                    // of one key
  size_t answer_bytes = (size_t{4} << 20) - (64 << 10);  // of one get(): a message has 4 MiB
};

// Not thread-safe.
class KeyValues {
 public:
  // Exactly one is called, once: `found` with the values of all keys, `late` with the first
  // missing key, or `refused` with the limit that the answer would pass.
  struct Waiter {
    std::function<void(std::vector<std::string> values)> found;
    std::function<void(const std::string& missing)> late;
    std::function<void(const std::string& why)> refused = {};
  };

  explicit KeyValues(const StoreLimits& limits = {}) : limits_(limits) {}

  void set(const std::string& key, std::string value);
  // Returns a number for cancel(), or 0 if the answer was given at once.
  uint64_t get(std::vector<std::string> keys, Duration deadline, Waiter waiter);
  // Forgets a wait whose caller has gone, without a call. Returns false if it has had its answer.
  bool cancel(uint64_t wait);
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
    size_t value_bytes = 0;
    size_t held = 0;  // its part of held_
    Duration deadline;
    Waiter waiter;
    uint64_t number = 0;
    // The first key that has not been there, where one has not.
    const std::string& missing() const { return keys[values.size()]; }
  };
  using PendingList = std::list<Pending>;

  // Takes the values of keys up to the first that is missing. Whether none is. Throws UsageError at
  // a limit.
  bool complete(Pending& pending) const;
  void wake(const std::string& key);
  // Takes note that a wait holds `bytes`.
  void hold(Pending& pending, size_t bytes);
  void hold_values(Pending& pending);
  void forget(PendingList::iterator wait);

  const StoreLimits limits_;
  size_t held_ = 0;  // bytes
  uint64_t last_number_ = 0;
  std::unordered_map<uint64_t, PendingList::iterator> numbered_;
  std::unordered_map<std::string, std::string> values_;
  PendingList pending_;
  // The waits for each key that does not exist yet.
  std::unordered_map<std::string, std::vector<PendingList::iterator>> waiting_;
  std::multiset<Duration> deadlines_;
};

}  // namespace lockstep::launcher
