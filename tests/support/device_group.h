// Groups on a device that no call can reach: whatever a test sends through them instead of through
// their host groups fails.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "comm/engine/backend.h"
#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "core/base/error.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {

class DeviceBackend final : public comm::Backend {
 public:
  // What became of one rank's backend, or of those that were split from it.
  struct Seen {
    std::atomic<int> calls{0};
    std::atomic<bool> split_fails{false};  // set by the test
    std::string aborted() {
      std::lock_guard lock(mutex);
      return why;
    }
    std::mutex mutex;
    std::string why;  // of the first abort
  };

  DeviceBackend(int rank, int size, std::shared_ptr<Seen> seen)
      : rank_(rank), size_(size), seen_(std::move(seen)) {}
  std::string name() const override { return "device"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Device device() const override { return {DeviceType::cuda, 0}; }
  Event execute(const comm::Call& call) override {
    ++seen_->calls;
    throw EnvironmentError(str("[test] ", call.what(), " went to the device"));
  }
  std::unique_ptr<Backend> split(const comm::SplitPlan& plan) override {
    if (seen_->split_fails) throw EnvironmentError("[test] the device does not split");
    if (plan.color < 0) return nullptr;
    return std::make_unique<DeviceBackend>(plan.rank, static_cast<int>(plan.ranks.size()), seen_);
  }
  std::shared_ptr<Storage> allocate(size_t) override {
    throw EnvironmentError("[test] there is no device memory");
  }
  void abort(const std::string& reason) noexcept override {
    std::lock_guard lock(seen_->mutex);
    if (seen_->why.empty()) seen_->why = reason;
  }

 private:
  const int rank_, size_;
  const std::shared_ptr<Seen> seen_;
};

inline std::unique_ptr<comm::ProcessGroup> device_group(
    const std::shared_ptr<comm::Store>& store, int rank, int size,
    const comm::GroupOptions& options = {},
    const std::shared_ptr<DeviceBackend::Seen>& seen = std::make_shared<DeviceBackend::Seen>()) {
  return comm::create(std::make_unique<DeviceBackend>(rank, size, seen), store, options);
}

// Runs `body` on `ranks` threads, each with a group on the device. Fails where a call was sent
// through it.
inline void run_device_group(
    int ranks, const std::function<void(const std::shared_ptr<comm::ProcessGroup>&)>& body) {
  const auto store = std::make_shared<comm::HashStore>();
  run_threads(ranks, [&](int rank) {
    const auto seen = std::make_shared<DeviceBackend::Seen>();
    body(device_group(store, rank, ranks, {}, seen));
    EXPECT_EQ(seen->calls, 0) << "on rank " << rank;
    EXPECT_EQ(seen->aborted(), "") << "on rank " << rank;
  });
}

}  // namespace lockstep::test
