// Store: a small shared map through which ranks find each other. Backends receive one and never run
// a rendezvous of their own. Implementations: comm/local (threads of one process), launcher (over
// gRPC), comm/mpi (over an MPI job).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/clock.h"

namespace lockstep::comm {

// Thread-safe. Values are bytes. Every wait has a limit: a TimeoutError names the key and the
// limit. An EnvironmentError means that the store cannot be reached any more.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  // Waits until the key exists.
  virtual std::string get(const std::string& key, Duration timeout) = 0;
  virtual void wait(const std::vector<std::string>& keys, Duration timeout) = 0;
  // Adds to a decimal counter (0 if the key does not exist) and returns the sum.
  virtual int64_t add(const std::string& key, int64_t delta) = 0;
  // Sets `desired` if the value is `expected` (empty: if the key does not exist). Returns the value
  // that the key has afterwards.
  virtual std::string compare_and_set(const std::string& key, const std::string& expected,
                                      const std::string& desired) = 0;
  // Removes keys as if they had never been set. A missing key is not an error. Remove a key only
  // after all its readers have read it: a later get() would wait until it is set again.
  virtual void remove(const std::vector<std::string>& keys) = 0;
};

// The same store, with "prefix/" before every key: several users can share one without clashes.
std::shared_ptr<Store> with_prefix(std::shared_ptr<Store> store, std::string prefix);

}  // namespace lockstep::comm
