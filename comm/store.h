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

// Thread-safe. Values are bytes. Every wait has a limit: TimeoutError names the key and the limit;
// EnvironmentError says that the store cannot be reached any more.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  // Waits until the key exists.
  virtual std::string get(const std::string& key, Duration timeout) = 0;
  virtual void wait(const std::vector<std::string>& keys, Duration timeout) = 0;
  // Adds to a decimal counter (0 where the key does not exist) and returns the sum.
  virtual int64_t add(const std::string& key, int64_t delta) = 0;
  // Sets `desired` if the value is `expected` (empty: the key does not exist). Returns the value
  // that the key has now.
  virtual std::string compare_and_set(const std::string& key, const std::string& expected,
                                      const std::string& desired) = 0;
  // The keys are as if they had never been set; one that does not exist is no error. Remove a key
  // only when all who read it have it: a later get() waits until the key is set again.
  virtual void remove(const std::vector<std::string>& keys) = 0;
};

// The same store seen through "prefix/": lets several users share one without clashes.
std::shared_ptr<Store> with_prefix(std::shared_ptr<Store> store, std::string prefix);

}  // namespace lockstep::comm
