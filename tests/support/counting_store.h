// CountingStore: another store, and how often one rank has asked it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/store.h"

namespace lockstep::test {

// Not thread-safe: each rank has its own, over the same store.
class CountingStore final : public comm::Store {
 public:
  explicit CountingStore(std::shared_ptr<comm::Store> store) : store_(std::move(store)) {}

  // Requests, and keys that they named. What a slow machine makes more of does not count: waits
  // that end at their limit, and looks in between (a limit of 0).
  int requests() const { return requests_; }
  size_t keys() const { return keys_; }

  void set(const std::string& key, const std::string& value) override {
    count(1);
    store_->set(key, value);
  }
  std::string get(const std::string& key, Duration timeout) override {
    std::string value = store_->get(key, timeout);
    if (timeout > Duration::zero()) count(1);
    return value;
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    store_->wait(keys, timeout);
    count(keys.size());
  }
  int64_t add(const std::string& key, int64_t delta) override {
    count(1);
    return store_->add(key, delta);
  }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    count(1);
    return store_->compare_and_set(key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override {
    count(keys.size());
    store_->remove(keys);
  }

 private:
  void count(size_t keys) {
    ++requests_;
    keys_ += keys;
  }

  std::shared_ptr<comm::Store> store_;
  int requests_ = 0;
  size_t keys_ = 0;
};

}  // namespace lockstep::test
