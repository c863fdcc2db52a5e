#include "python/torch/store.h"

#include <algorithm>
#include <thread>

#include "core/base/error.h"

namespace lockstep::pytorch {
namespace {

constexpr Duration kFirstPause = std::chrono::microseconds(100);
constexpr Duration kLongestPause = std::chrono::milliseconds(10);

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }
std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

class OverC10d final : public comm::Store {
 public:
  explicit OverC10d(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  void set(const std::string& key, const std::string& value) override {
    ask("set", key, [&] { store_->set(key, bytes_of(value)); });
  }

  std::string get(const std::string& key, Duration timeout) override {
    wait({key}, timeout);
    std::string value;
    ask("get", key, [&] { value = text_of(store_->get(key)); });
    return value;
  }

  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    const Deadline deadline = Deadline::after(timeout);
    for (const std::string& key : keys) await(key, timeout, deadline);
  }

  int64_t add(const std::string& key, int64_t delta) override {
    int64_t sum = 0;
    ask("add to", key, [&] { sum = store_->add(key, delta); });
    return sum;
  }

  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    std::string now;
    ask("compare and set", key,
        [&] { now = text_of(store_->compareSet(key, bytes_of(expected), bytes_of(desired))); });
    return now;
  }

  void remove(const std::vector<std::string>& keys) override {
    for (const std::string& key : keys) ask("remove", key, [&] { store_->deleteKey(key); });
  }

 private:
  void await(const std::string& key, Duration timeout, const Deadline& deadline) {
    Duration pause = kFirstPause;
    for (;;) {
      bool there = false;
      ask("look for", key, [&] { there = store_->check({key}); });
      if (there) return;
      if (deadline.passed())
        throw TimeoutError(str("[torch] no rank has set '", key,
                               "' in the store of torch.distributed within ", seconds(timeout),
                               " s"));
      std::this_thread::sleep_for(std::min(pause, deadline.remaining()));
      pause = std::min(2 * pause, kLongestPause);
    }
  }

  template <typename Body>
  void ask(const char* what, const std::string& key, const Body& body) const {
    try {
      body();
    } catch (const std::exception& e) {
      throw EnvironmentError(str("[torch] cannot ", what, " '", key,
                                 "' in the store of torch.distributed: ", e.what()));
    }
  }

  const c10::intrusive_ptr<c10d::Store> store_;
};

}  // namespace

std::shared_ptr<comm::Store> over(c10::intrusive_ptr<c10d::Store> store) {
  return std::make_shared<OverC10d>(std::move(store));
}

}  // namespace lockstep::pytorch
