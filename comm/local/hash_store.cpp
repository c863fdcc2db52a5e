#include "comm/local/hash_store.h"

#include <charconv>

#include "core/base/error.h"

namespace lockstep::comm {

void HashStore::set(const std::string& key, const std::string& value) {
  const MutexLock lock(mutex_);
  values_[key] = value;
  changed_.notify_all();
}

void HashStore::await(const std::string& key, const Deadline& deadline, Duration limit) {
  const auto is_there = [&]() LOCKSTEP_REQUIRES(mutex_) { return values_.contains(key); };
  if (!changed_.wait_until(mutex_, deadline.at(), is_there))
    throw TimeoutError(str("[store] key '", key, "' did not appear within ", seconds(limit), " s"));
}

std::string HashStore::get(const std::string& key, Duration timeout) {
  const MutexLock lock(mutex_);
  await(key, Deadline::after(timeout), timeout);
  return values_[key];
}

void HashStore::wait(const std::vector<std::string>& keys, Duration timeout) {
  const Deadline deadline = Deadline::after(timeout);
  const MutexLock lock(mutex_);
  for (const auto& key : keys) await(key, deadline, timeout);
}

int64_t HashStore::add(const std::string& key, int64_t delta) {
  const MutexLock lock(mutex_);
  std::string& value = values_[key];
  int64_t number = 0;
  if (!value.empty()) {
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    check(error == std::errc() && end == value.data() + value.size(), "[store] add: key '", key,
          "' holds '", value, "', which is not a number");
  }
  number += delta;
  value = std::to_string(number);
  changed_.notify_all();
  return number;
}

std::string HashStore::compare_and_set(const std::string& key, const std::string& expected,
                                       const std::string& desired) {
  const MutexLock lock(mutex_);
  const auto found = values_.find(key);
  const std::string now = found == values_.end() ? "" : found->second;
  if (now != expected) return now;
  values_[key] = desired;
  changed_.notify_all();
  return desired;
}

void HashStore::remove(const std::vector<std::string>& keys) {
  const MutexLock lock(mutex_);
  for (const auto& key : keys) values_.erase(key);
}

size_t HashStore::size() const {
  const MutexLock lock(mutex_);
  return values_.size();
}

}  // namespace lockstep::comm
