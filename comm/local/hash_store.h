// HashStore: a Store in the memory of one process, for ranks that are threads of it. Thread-safe.
#pragma once

#include <map>

#include "comm/store.h"
#include "core/base/mutex.h"

namespace lockstep::comm {

class HashStore final : public Store {
 public:
  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, Duration timeout) override;
  void wait(const std::vector<std::string>& keys, Duration timeout) override;
  int64_t add(const std::string& key, int64_t delta) override;
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override;
  void remove(const std::vector<std::string>& keys) override;
  // The number of keys.
  size_t size() const;

 private:
  void await(const std::string& key, const Deadline& deadline, Duration limit)
      LOCKSTEP_REQUIRES(mutex_);

  mutable Mutex mutex_;
  Condition changed_;
  std::map<std::string, std::string> values_ LOCKSTEP_GUARDED_BY(mutex_);
};

}  // namespace lockstep::comm
