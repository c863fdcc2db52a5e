#include "launcher/rendezvous/key_values.h"

#include <charconv>

#include "core/base/error.h"

namespace lockstep::launcher {

namespace {

constexpr double kMiB = 1 << 20;

std::string shown(const std::string& key) { return key.substr(0, 80); }

[[noreturn]] void refuse_bytes(const std::string& what, size_t limit) {
  throw UsageError(str("[store] ", what, " would pass the store's limit of ",
                       static_cast<double>(limit) / kMiB,
                       " MiB; a store is for small things: remove() what nobody needs"));
}

}  // namespace

void KeyValues::set(const std::string& key, std::string value) {
  check(key.size() <= limits_.key_bytes, "[store] key '", shown(key), "...' has ", key.size(),
        " bytes, at most ", limits_.key_bytes, " are possible");
  const auto found = values_.find(key);
  const bool fresh = found == values_.end();
  check(!fresh || values_.size() < limits_.keys, "[store] key '", shown(key),
        "' would be one more than the store's limit of ", limits_.keys, " keys");
  const size_t before = fresh ? 0 : key.size() + found->second.size();
  const size_t after = key.size() + value.size();
  if (held_ - before + after > limits_.bytes)
    refuse_bytes(str("key '", shown(key), "' with its value of ", value.size(), " bytes"),
                 limits_.bytes);
  held_ += after - before;
  values_[key] = std::move(value);
  wake(key);
}

bool KeyValues::complete(Pending& pending) const {
  while (pending.values.size() < pending.keys.size()) {
    const auto found = values_.find(pending.missing());
    if (found == values_.end()) return false;
    pending.value_bytes += found->second.size();
    check(pending.value_bytes <= limits_.answer_bytes, "[store] the values of the ",
          pending.keys.size(), " keys from '", shown(pending.keys.front()),
          "' on have more bytes than an answer may have, ", limits_.answer_bytes,
          ": ask for fewer keys at once");
    pending.values.push_back(found->second);
  }
  return true;
}

void KeyValues::hold(Pending& pending, size_t bytes) {
  const size_t now = held_ - pending.held;
  if (now + bytes > limits_.bytes)
    refuse_bytes(str("a wait for '", shown(pending.missing()), "'"), limits_.bytes);
  held_ = now + bytes;
  pending.held = bytes;
}

void KeyValues::hold_values(Pending& pending) {
  size_t bytes = pending.value_bytes;
  for (const auto& key : pending.keys) bytes += key.size() + sizeof(std::string);
  hold(pending, bytes);
}

uint64_t KeyValues::get(std::vector<std::string> keys, Duration deadline, Waiter waiter) {
  Pending pending;
  pending.keys = std::move(keys);
  pending.deadline = deadline;
  pending.waiter = std::move(waiter);
  if (complete(pending)) {
    pending.waiter.found(std::move(pending.values));
    return 0;
  }
  check(pending_.size() < limits_.waits, "[store] a wait for '", shown(pending.missing()),
        "' would be one more than the store's limit of ", limits_.waits, " waits");
  hold_values(pending);
  pending.number = ++last_number_;
  pending_.push_front(std::move(pending));
  numbered_[last_number_] = pending_.begin();
  waiting_[pending_.front().missing()].push_back(pending_.begin());
  deadlines_.insert(deadline);
  return last_number_;
}

void KeyValues::forget(PendingList::iterator wait) {
  deadlines_.erase(deadlines_.find(wait->deadline));
  numbered_.erase(wait->number);
  held_ -= wait->held;
  pending_.erase(wait);
}

bool KeyValues::cancel(uint64_t wait) {
  const auto found = numbered_.find(wait);
  if (found == numbered_.end()) return false;
  const auto waiting = waiting_.find(found->second->missing());
  std::erase(waiting->second, found->second);
  if (waiting->second.empty()) waiting_.erase(waiting);
  forget(found->second);
  return true;
}

void KeyValues::wake(const std::string& key) {
  auto node = waiting_.extract(key);
  if (node.empty()) return;
  for (const auto& each : node.mapped()) {
    try {
      if (!complete(*each)) {
        hold_values(*each);
        waiting_[each->missing()].push_back(each);
        continue;
      }
      each->waiter.found(std::move(each->values));
    } catch (const UsageError& error) {
      each->waiter.refused(error.what());
    }
    forget(each);
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
  for (const auto& key : keys) {
    const auto found = values_.find(key);
    if (found == values_.end()) continue;
    held_ -= key.size() + found->second.size();
    values_.erase(found);
  }
}

void KeyValues::tick(Duration now) {
  if (deadlines_.empty() || *deadlines_.begin() > now) return;
  for (auto each = pending_.begin(); each != pending_.end();) {
    const auto current = each++;
    if (current->deadline > now) continue;
    const std::string missing = current->missing();
    std::erase(waiting_[missing], current);
    if (waiting_[missing].empty()) waiting_.erase(missing);
    current->waiter.late(missing);
    forget(current);
  }
}

std::optional<Duration> KeyValues::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return *deadlines_.begin();
}

}  // namespace lockstep::launcher
