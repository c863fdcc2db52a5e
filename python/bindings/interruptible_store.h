// A store whose waits end on Ctrl-C: ranks that wait for others to come wait in the store.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/interrupt.h"
#include "comm/store.h"
#include "core/base/error.h"

namespace lockstep::python {

class InterruptibleStore final : public comm::Store {
 public:
  explicit InterruptibleStore(std::shared_ptr<comm::Store> store) : store_(std::move(store)) {}

  void set(const std::string& key, const std::string& value) override { store_->set(key, value); }
  std::string get(const std::string& key, Duration timeout) override {
    wait({key}, timeout);
    return store_->get(key, timeout);
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    if (!comm::InterruptScope::watched()) return store_->wait(keys, timeout);
    const Deadline deadline = Deadline::after(timeout);
    for (;;) {
      try {
        return store_->wait(keys, std::min<Duration>(kSlice, deadline.remaining()));
      } catch (const TimeoutError& e) {
        if (comm::InterruptScope::interrupted())
          throw EnvironmentError(str("[store] interrupted while waiting for '", keys.front(), "'"));
        if (deadline.passed())
          throw TimeoutError(str("[store] no rank has set '", keys.front(), "' within ",
                                 seconds(timeout), " s: ", e.what()));
      }
    }
  }
  int64_t add(const std::string& key, int64_t delta) override { return store_->add(key, delta); }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    return store_->compare_and_set(key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override { store_->remove(keys); }

 private:
  static constexpr Duration kSlice = std::chrono::milliseconds(40);

  const std::shared_ptr<comm::Store> store_;
};

}  // namespace lockstep::python
