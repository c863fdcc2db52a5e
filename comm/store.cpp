#include "comm/store.h"

namespace lockstep::comm {
namespace {

class PrefixStore final : public Store {
 public:
  PrefixStore(std::shared_ptr<Store> store, std::string prefix)
      : store_(std::move(store)), prefix_(std::move(prefix) + "/") {}

  void set(const std::string& key, const std::string& value) override {
    store_->set(prefix_ + key, value);
  }
  std::string get(const std::string& key, Duration timeout) override {
    return store_->get(prefix_ + key, timeout);
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    store_->wait(prefixed(keys), timeout);
  }
  int64_t add(const std::string& key, int64_t delta) override {
    return store_->add(prefix_ + key, delta);
  }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    return store_->compare_and_set(prefix_ + key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override { store_->remove(prefixed(keys)); }

 private:
  std::vector<std::string> prefixed(const std::vector<std::string>& keys) const {
    std::vector<std::string> all;
    all.reserve(keys.size());
    for (const auto& key : keys) all.push_back(prefix_ + key);
    return all;
  }

  std::shared_ptr<Store> store_;
  std::string prefix_;
};

}  // namespace

std::shared_ptr<Store> with_prefix(std::shared_ptr<Store> store, std::string prefix) {
  return std::make_shared<PrefixStore>(std::move(store), std::move(prefix));
}

}  // namespace lockstep::comm
