#include "launcher/rendezvous/key_values.h"

#include <charconv>

#include "core/base/error.h"

namespace lockstep::launcher {

void KeyValues::set(const std::string& key, std::string value) {
  values_[key] = std::move(value);
  wake(key);
}

bool KeyValues::complete(Pending& pending) const {
  while (pending.values.size() < pending.keys.size()) {
    const auto found = values_.find(pending.missing());
    if (found == values_.end()) return false;
    pending.values.push_back(found->second);
  }
  return true;
}

void KeyValues::get(std::vector<std::string> keys, Duration deadline, Waiter waiter) {
  Pending pending{std::move(keys), {}, deadline, std::move(waiter)};
  if (complete(pending)) return pending.waiter.found(std::move(pending.values));
  pending_.push_front(std::move(pending));
  waiting_[pending_.front().missing()].push_back(pending_.begin());
  deadlines_.insert(deadline);
}

void KeyValues::wake(const std::string& key) {
  auto node = waiting_.extract(key);
  if (node.empty()) return;
  for (const auto& each : node.mapped()) {
    if (!complete(*each)) {
      waiting_[each->missing()].push_back(each);
      continue;
    }
    each->waiter.found(std::move(each->values));
    deadlines_.erase(deadlines_.find(each->deadline));
    pending_.erase(each);
  }
}

int64_t KeyValues::add(const std::string& key, int64_t delta) {
  int64_t number = 0;
  if (const auto found = values_.find(key); found != values_.end() && !found->second.empty()) {
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    check(error == std::errc() && end == text.data() + text.size(), "[store] add: key '", key,
          "' holds no number");
  }
  check(!__builtin_add_overflow(number, delta, &number), "[store] add: key '", key,
        "' would pass the range of 64 bits");
  set(key, std::to_string(number));
  return number;
}

std::string KeyValues::compare_and_set(const std::string& key, const std::string& expected,
                                       const std::string& desired) {
  const auto found = values_.find(key);
  std::string now = found == values_.end() ? "" : found->second;
  if (now != expected) return now;
  set(key, desired);
  return desired;
}

void KeyValues::remove(const std::vector<std::string>& keys) {
  for (const auto& key : keys) values_.erase(key);
}

void KeyValues::tick(Duration now) {
  if (deadlines_.empty() || *deadlines_.begin() > now) return;
  for (auto each = pending_.begin(); each != pending_.end();) {
    const auto current = each++;
    if (current->deadline > now) continue;
    const std::string missing = current->missing();
    std::erase(waiting_[missing], current);
    if (waiting_[missing].empty()) waiting_.erase(missing);
    deadlines_.erase(deadlines_.find(current->deadline));
    current->waiter.late(missing);
    pending_.erase(current);
  }
}

std::optional<Duration> KeyValues::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return *deadlines_.begin();
}

}  // namespace lockstep::launcher
