#include "launcher/rendezvous/key_values.h"

#include <charconv>

#include "core/base/error.h"

namespace lockstep::launcher {

void KeyValues::set(const std::string& key, std::string value) {
  values_[key] = std::move(value);
  wake(key);
}

bool KeyValues::complete(Pending& pending) const {
  while (pending.next < pending.keys.size() && values_.contains(pending.keys[pending.next]))
    ++pending.next;
  return pending.next == pending.keys.size();
}

std::vector<std::string> KeyValues::values_of(const Pending& pending) const {
  std::vector<std::string> values;
  values.reserve(pending.keys.size());
  for (const auto& key : pending.keys) values.push_back(values_.at(key));
  return values;
}

void KeyValues::get(std::vector<std::string> keys, Duration deadline, Waiter waiter) {
  Pending pending{std::move(keys), 0, deadline, std::move(waiter)};
  if (complete(pending)) return pending.waiter.found(values_of(pending));
  pending_.push_front(std::move(pending));
  waiting_[pending_.front().keys[pending_.front().next]].push_back(pending_.begin());
  deadlines_.insert(deadline);
}

void KeyValues::wake(const std::string& key) {
  auto node = waiting_.extract(key);
  if (node.empty()) return;
  for (const auto& each : node.mapped()) {
    if (!complete(*each)) {
      waiting_[each->keys[each->next]].push_back(each);
      continue;
    }
    each->waiter.found(values_of(*each));
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

void KeyValues::tick(Duration now) {
  if (deadlines_.empty() || *deadlines_.begin() > now) return;
  for (auto each = pending_.begin(); each != pending_.end();) {
    const auto current = each++;
    if (current->deadline > now) continue;
    const std::string missing = current->keys[current->next];
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
