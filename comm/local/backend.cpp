#include <array>
#include <cstring>
#include <numeric>

#include <unistd.h>

#include "comm/local/factory.h"
#include "comm/local/hub.h"
#include "comm/peer_failure.h"
#include "comm/reduce/reduce_kernels.h"
#include "comm/store.h"
#include "core/base/error.h"
#include "core/tensor/storage.h"

namespace lockstep::comm::local {
namespace {

void copy(void* to, const void* from, int64_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

// This rank's part of a collective; it can reach the tensors of all ranks. No two ranks write the
// same bytes, and no rank writes bytes that another one reads.
class Move {
 public:
  Move(int rank, const Call& call, const std::vector<Call>& calls)
      : rank_(rank), call_(call), calls_(calls), size_(static_cast<int>(calls.size())) {}

  void run() const {
    switch (call_.op) {
      case Op::all_reduce: {
        std::vector<void*> outs;
        for (int r = 0; r < size_; ++r) outs.push_back(out(r, part().begin));
        return reduce(part().begin, outs, part().size());
      }
      case Op::reduce: return reduce(part().begin, {out(call_.root, part().begin)}, part().size());
      case Op::reduce_scatter: return reduce(rank_ * call_.count, {call_.out}, call_.count);
      case Op::all_gather:
        for (int r = 0; r < size_; ++r) copy(out(rank_, r * call_.count), in(r, 0), call_.bytes());
        return;
      case Op::broadcast: return copy(call_.out, in(call_.root, 0), call_.bytes());
      case Op::gather:
        if (rank_ == call_.root)
          for (int r = 0; r < size_; ++r)
            copy(out(rank_, r * call_.count), in(r, 0), call_.bytes());
        return;
      case Op::scatter: return copy(call_.out, in(call_.root, rank_ * call_.count), call_.bytes());
      case Op::all_to_all:
        for (int r = 0; r < size_; ++r)
          copy(out(rank_, r * call_.count), in(r, rank_ * call_.count), call_.bytes());
        return;
      default: return;
    }
  }

 private:
  Range part() const { return part_of(call_.count, size_, rank_); }
  const std::byte* in(int rank, int64_t element) const {
    return static_cast<const std::byte*>(calls_[static_cast<size_t>(rank)].in) +
           element * size_of(call_.dtype);
  }
  std::byte* out(int rank, int64_t element) const {
    return static_cast<std::byte*>(calls_[static_cast<size_t>(rank)].out) +
           element * size_of(call_.dtype);
  }
  void reduce(int64_t begin, const std::vector<void*>& outs, int64_t count) const {
    std::vector<const void*> sources;
    for (int r = 0; r < size_; ++r) sources.push_back(in(r, begin));
    reduce_in_order(call_.dtype, call_.reduce_op, call_.tree->steps(), sources, outs, count);
  }

  const int rank_;
  const Call& call_;
  const std::vector<Call>& calls_;
  const int size_;
};

}  // namespace

class LocalBackend final : public Backend {
 public:
  LocalBackend(std::shared_ptr<Hub> hub, std::string key, int rank)
      : hub_(std::move(hub)), key_(std::move(key)), rank_(rank) {}
  ~LocalBackend() override { hub_->leave(rank_); }

  std::string name() const override { return "local"; }
  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  Device device() const override { return kCpu; }

  Event execute(const Call& call) override {
    if (point_to_point(call.op))
      hub_->message(rank_, call);
    else
      hub_->collective(rank_, call,
                       [&](const std::vector<Call>& calls) { Move(rank_, call, calls).run(); });
    return {};
  }

  // Whoever has left has done its part of all calls that others watch.
  void check_running() override { hub_->check_there({}); }

  std::unique_ptr<Backend> split(const SplitPlan& plan) override {
    if (plan.color < 0) return nullptr;
    const std::string key = key_ + "|" + plan.name;
    // A rank that is gone from the parent group cannot join the new one.
    const auto check_missing = [&](const std::vector<int>& missing) {
      std::vector<int> here;
      for (const int rank : missing) here.push_back(plan.ranks[static_cast<size_t>(rank)]);
      hub_->check_there(here);
    };
    auto hub = Hub::join(key, plan.rank, static_cast<int>(plan.ranks.size()), plan.name, plan.limit,
                         check_missing);
    return std::make_unique<LocalBackend>(std::move(hub), key, plan.rank);
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    auto storage = std::make_shared<Storage>(bytes, kCpu);
    if (bytes > 0) std::memset(storage->data(), 0, bytes);
    return storage;
  }

  void abort(const std::string& reason) noexcept override { hub_->abort(reason); }

 private:
  const std::shared_ptr<Hub> hub_;
  const std::string key_;
  const int rank_;
};

}  // namespace lockstep::comm::local

namespace lockstep::comm {

std::unique_ptr<Backend> make_local(std::shared_ptr<Store> store, int rank, int size,
                                    const GroupOptions& options) {
  static std::atomic<uint64_t> groups = 0;
  const Deadline deadline = Deadline::after(patience_of(options.timeout).limit);
  const std::string process = str("process ", ::getpid());
  if (rank == 0) store->set("local", str(process, ", group ", ++groups));
  const std::string key = [&] {
    try {
      return store->get("local", deadline.remaining());
    } catch (const TimeoutError& e) {
      throw FromPeer<TimeoutError>(
          str("[comm] local: rank 0 of ", size, " did not join in time: ", e.what()));
    }
  }();
  check(key.starts_with(process + ","),
        "[comm] backend 'local' joins threads of one process, but rank 0 is in ",
        key.substr(0, key.find(',')), " and rank ", rank, " in ", process,
        "; use 'shm' between processes");
  auto hub = local::Hub::join(key, rank, size, options.name, deadline, {});
  if (rank == 0) store->remove({"local"});  // all ranks have joined, so all have read the key
  return std::make_unique<local::LocalBackend>(std::move(hub), key, rank);
}

}  // namespace lockstep::comm
