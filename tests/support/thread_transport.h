// ThreadTransport: bytes between threads through queues in memory, to test what is built on
// comm/engine/transport.h.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/engine/transport.h"
#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "core/base/error.h"
#include "core/tensor/storage.h"

namespace lockstep::test {

// What all ranks share.
struct Mailboxes {
  using Key = std::tuple<comm::Transport::Channel, int, int>;  // channel, from, to
  std::mutex mutex;
  std::condition_variable changed;
  std::map<Key, std::deque<std::vector<std::byte>>> queues;
  std::vector<bool> left;
  std::string aborted;
};

class ThreadTransport final : public comm::Transport {
 public:
  ThreadTransport(std::shared_ptr<Mailboxes> boxes, int rank, int size,
                  std::atomic<int64_t>* sent = nullptr)
      : boxes_(std::move(boxes)), rank_(rank), size_(size), sent_(sent) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void exchange(Channel channel, std::span<const Send> sends, std::span<const Receive> receives,
                const comm::Limit& limit) override {
    std::unique_lock lock(boxes_->mutex);
    for (const Send& s : sends) {
      const auto* data = static_cast<const std::byte*>(s.data);
      boxes_->queues[{channel, rank_, s.to}].emplace_back(data, data + s.bytes);
      if (sent_ && s.bytes != sizeof(comm::Fingerprint)) *sent_ += static_cast<int64_t>(s.bytes);
    }
    boxes_->changed.notify_all();
    for (size_t i = 0; i < receives.size(); ++i) {
      const Receive& r = receives[i];
      auto& queue = boxes_->queues[{channel, r.from, rank_}];
      while (queue.empty()) {
        if (!boxes_->aborted.empty()) throw comm::FromPeer<EnvironmentError>(boxes_->aborted);
        if (boxes_->left[static_cast<size_t>(r.from)])
          throw comm::FromPeer<EnvironmentError>(str("rank ", r.from, " has left the group"));
        if (limit.passed())
          throw comm::FromPeer<TimeoutError>(
              str(limit.reached(), ": ", missing(channel, receives.subspan(i))));
        boxes_->changed.wait_for(lock, limit.nap());
      }
      check(queue.front().size() == r.bytes, "[transport] expected ", r.bytes, " bytes, got ",
            queue.front().size());
      if (r.bytes > 0) std::memcpy(r.data, queue.front().data(), r.bytes);
      queue.pop_front();
    }
  }

 private:
  // Whose message is not there. With the lock held.
  std::string missing(Channel channel, std::span<const Receive> receives) const {
    std::vector<int> ranks;
    for (const Receive& r : receives)
      if (boxes_->queues[{channel, r.from, rank_}].empty()) ranks.push_back(r.from);
    return comm::ranks_text(ranks) + (ranks.size() == 1 ? " has not arrived" : " have not arrived");
  }

  const std::shared_ptr<Mailboxes> boxes_;
  const int rank_;
  const int size_;
  std::atomic<int64_t>* const sent_;
};

// The least that a backend over a transport needs.
class TransportBackend final : public comm::Backend {
 public:
  // `join(name, size)` gives the mailboxes that all ranks of a group share. `sent`, where it is not
  // null, counts the bytes of data that this group and those that are split from it send;
  // fingerprints are not counted, nor is what has their size.
  using Join = std::function<std::shared_ptr<Mailboxes>(const std::string& name, int size)>;
  TransportBackend(Join join, const std::string& name, int rank, int size,
                   std::atomic<int64_t>* sent = nullptr)
      : join_(std::move(join)),
        boxes_(join_(name, size)),
        transport_(boxes_, rank, size, sent),
        sent_(sent) {}
  ~TransportBackend() override {
    std::lock_guard lock(boxes_->mutex);
    boxes_->left[static_cast<size_t>(rank())] = true;
    boxes_->changed.notify_all();
  }

  std::string name() const override { return "transport"; }
  int rank() const override { return transport_.rank(); }
  int size() const override { return transport_.size(); }
  Device device() const override { return kCpu; }
  Event execute(const comm::Call& call) override {
    comm::execute_over(transport_, call);
    return {};
  }
  std::unique_ptr<comm::Backend> split(const comm::SplitPlan& plan) override {
    if (plan.color < 0) return nullptr;
    return std::make_unique<TransportBackend>(join_, plan.name, plan.rank,
                                              static_cast<int>(plan.ranks.size()), sent_);
  }
  std::shared_ptr<Storage> allocate(size_t bytes) override {
    auto storage = std::make_shared<Storage>(bytes, kCpu);
    if (bytes > 0) std::memset(storage->data(), 0, bytes);
    return storage;
  }
  void abort(const std::string& reason) noexcept override {
    std::lock_guard lock(boxes_->mutex);
    if (boxes_->aborted.empty()) boxes_->aborted = reason;
    boxes_->changed.notify_all();
  }

 private:
  const Join join_;
  const std::shared_ptr<Mailboxes> boxes_;
  ThreadTransport transport_;
  std::atomic<int64_t>* const sent_;
};

// The mailboxes of all groups of one test, by name.
class Registry {
 public:
  std::shared_ptr<Mailboxes> join(const std::string& name, int size) {
    std::lock_guard lock(mutex_);
    auto& boxes = groups_[name];
    if (!boxes) {
      boxes = std::make_shared<Mailboxes>();
      boxes->left.resize(static_cast<size_t>(size));
    }
    return boxes;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Mailboxes>> groups_;
};

}  // namespace lockstep::test
