// A Store over MPI messages: rank 0 holds the map, and a thread there answers the others.
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

// A request to rank 0 and its answer, sent as bytes between processes of one program.
struct StoreRequest {
  enum class Kind : uint8_t { set, get, add, compare_and_set, remove };
  uint64_t id = 0;  // the answer repeats it
  Kind kind = Kind::get;
  int64_t delta = 0;
  std::string key, expected, value;
  std::vector<std::string> keys = {};  // for remove
};
struct StoreAnswer {
  enum class Kind : uint8_t { value, no_such_key, wrong_use };
  uint64_t id = 0;
  Kind kind = Kind::value;
  int64_t number = 0;
  std::string value;  // or the text of the error
};

// Answers requests from the map until stopped. Its thread polls: often while requests come,
// otherwise 200 times a second.
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

// The map on rank 0, as another rank uses it. Besides the limits of get() and wait(), every single
// request has a limit of 30 s.
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
