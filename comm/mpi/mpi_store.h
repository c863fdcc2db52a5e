// A Store over MPI messages: rank 0 holds the map, a thread of it answers the others.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi/runtime.h"
#include "comm/store.h"
#include "core/base/mutex.h"

namespace lockstep::comm::mpi {

// What a rank asks and what rank 0 answers. Sent as bytes among processes of one program.
struct StoreRequest {
  enum class Kind : uint8_t { set, get, add, compare_and_set, remove };
  uint64_t id = 0;  // comes back in the answer
  Kind kind = Kind::get;
  int64_t delta = 0;
  std::string key, expected, value;
  std::vector<std::string> keys = {};  // of remove
};
struct StoreAnswer {
  enum class Kind : uint8_t { value, no_such_key, wrong_use };
  uint64_t id = 0;
  Kind kind = Kind::value;
  int64_t number = 0;
  std::string value;  // or the error's text
};

// Answers requests from the map until stopped; its thread polls, often while requests come and 200
// times a second otherwise.
class StoreServer {
 public:
  StoreServer(Runtime& runtime, std::shared_ptr<Store> map);
  ~StoreServer() { stop(); }
  void stop();

 private:
  void serve();
  StoreAnswer answer(const StoreRequest& request);

  Runtime& runtime_;
  const std::shared_ptr<Store> map_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// The map on rank 0, seen from another rank. Besides the limits of get() and wait() every request
// has one of 30 s.
class MpiStore final : public Store {
 public:
  explicit MpiStore(Runtime& runtime) : runtime_(runtime) {}
  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, Duration timeout) override;
  void wait(const std::vector<std::string>& keys, Duration timeout) override;
  int64_t add(const std::string& key, int64_t delta) override;
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override;
  void remove(const std::vector<std::string>& keys) override;

 private:
  StoreAnswer ask(StoreRequest request);

  Runtime& runtime_;
  Mutex mutex_;  // one request at a time
  uint64_t last_id_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
};

}  // namespace lockstep::comm::mpi
