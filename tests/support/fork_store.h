// ForkStore: a Store for processes forked from one test. Made before the fork; lives in memory that
// the children share.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>

#include "comm/store.h"
#include "core/base/error.h"

namespace lockstep::test {

class ForkStore final : public comm::Store {
 public:
  ForkStore() {
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw EnvironmentError("[fork_store] mmap: " + errno_text(errno));
    shared_ = new (memory) Shared;
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    // A test may kill a rank at any moment.
    ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    ::pthread_mutex_init(&shared_->mutex, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
  }
  ~ForkStore() override { ::munmap(shared_, sizeof(Shared)); }

  void set(const std::string& key, const std::string& value) override {
    Lock lock(*shared_);
    write(key, value);
  }
  std::string get(const std::string& key, Duration timeout) override {
    const Deadline deadline = Deadline::after(timeout);
    while (true) {
      {
        Lock lock(*shared_);
        if (const Entry* entry = find(key)) return entry->value;
      }
      if (deadline.passed())
        throw TimeoutError(
            str("[store] key '", key, "' did not appear within ", seconds(timeout), " s"));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    const Deadline deadline = Deadline::after(timeout);
    for (const auto& key : keys) get(key, deadline.remaining());
  }
  int64_t add(const std::string& key, int64_t delta) override {
    Lock lock(*shared_);
    const Entry* entry = find(key);
    const int64_t sum = (entry ? std::stoll(entry->value) : 0) + delta;
    write(key, std::to_string(sum));
    return sum;
  }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    Lock lock(*shared_);
    const Entry* entry = find(key);
    const std::string now = entry ? entry->value : "";
    if (now != expected) return now;
    write(key, desired);
    return desired;
  }
  void remove(const std::vector<std::string>& keys) override {
    Lock lock(*shared_);
    for (const auto& key : keys)
      if (Entry* entry = find(key)) *entry = shared_->entries[--shared_->count];
  }
  size_t size() const {
    Lock lock(*shared_);
    return shared_->count;
  }

 private:
  struct Entry {
    char key[256];
    char value[16384];
  };
  struct Shared {
    pthread_mutex_t mutex;
    size_t count = 0;
    Entry entries[512];
  };
  struct Lock {
    explicit Lock(Shared& s) : shared(s) {
      if (::pthread_mutex_lock(&shared.mutex) == EOWNERDEAD)
        ::pthread_mutex_consistent(&shared.mutex);
    }
    ~Lock() { ::pthread_mutex_unlock(&shared.mutex); }
    Shared& shared;
  };

  Entry* find(const std::string& key) {
    for (size_t i = 0; i < shared_->count; ++i)
      if (key == shared_->entries[i].key) return &shared_->entries[i];
    return nullptr;
  }
  void write(const std::string& key, const std::string& value) {
    check(key.size() < sizeof(Entry::key) && value.size() < sizeof(Entry::value),
          "[fork_store] too long: ", key);
    Entry* entry = find(key);
    if (!entry) {
      check(shared_->count < std::size(shared_->entries), "[fork_store] full");
      entry = &shared_->entries[shared_->count];
      std::strcpy(entry->key, key.c_str());
      ++shared_->count;
    }
    std::strcpy(entry->value, value.c_str());
  }

  Shared* shared_;
};

}  // namespace lockstep::test
