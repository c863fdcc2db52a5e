#include <atomic>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "comm/nccl/collectives.h"
#include "comm/nccl/communicator.h"
#include "comm/nccl/factory.h"
#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/device/cuda_device.h"
#include "core/tensor/tensor.h"

namespace lockstep::comm {
namespace nccl {
namespace {

// Rank 0's id on all ranks.
UniqueId shared_id(Backend& inner, const Limit& limit) {
  UniqueId id;
  if (inner.rank() == 0)
    if (const int result = api().unique_id(&id))
      throw EnvironmentError(str("[nccl] making an id: ", api().error_text(result)));
  Call call;
  call.in = call.out = id.bytes.data();
  call.op = call.fingerprint.op = Op::broadcast;
  call.count = call.fingerprint.count = static_cast<int64_t>(id.bytes.size());
  call.root = call.fingerprint.root = 0;
  call.limit = limit;
  inner.execute(call);
  return id;
}

// Calls are compared over a backend of the CPU before they are queued, in the lane where they come.
// Collectives are queued on one communicator, in the order of their lane, which is the same on all
// ranks. Messages can come in another order there, so each pair of ranks has a communicator for
// each direction, which is made for its first message.
class NcclBackend final : public Backend {
 public:
  NcclBackend(std::unique_ptr<Backend> inner, Device device, std::string name, const Limit& limit)
      : inner_(std::move(inner)), device_(device), name_(std::move(name)) {
    if (size() == 1) return;
    try {
      const UniqueId id = shared_id(*inner_, limit);
      all_ = std::make_unique<Communicator>(device_, id, rank(), size(), name_, limit,
                                            [this] { inner_->check_running(); });
    } catch (const std::exception& e) {
      // The others wait for this rank.
      inner_->abort(str("rank ", rank(), ": ", e.what()));
      throw;
    }
  }

  std::string name() const override { return "nccl"; }
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  Device device() const override { return device_; }
  bool queues() const override { return true; }

  Event execute(const Call& call) override {
    compare(call);
    if (call.count == 0 || call.op == Op::barrier) return {};
    const bool message = point_to_point(call.op);
    Communicator& communicator = message ? pair(call) : *all_;
    const Queue& queue = communicator.queue();
    call.ready.wait(queue);
    for (const Storage* memory : {call.in_memory, call.out_memory})
      if (memory) memory->used_on(queue);
    const int rank = message ? (call.op == Op::send ? 0 : 1) : this->rank();
    run_call(communicator, call, rank, message ? 2 : size(), check_);
    return Event::record(queue);
  }

  void check_running() override {
    check_not_aborted();
    inner_->check_running();  // first: it knows which rank has died, and NCCL seldom does
    each([](Communicator& communicator) { communicator.check_state(); });
  }

  std::unique_ptr<Backend> split(const SplitPlan& plan) override {
    auto inner = inner_->split(plan);
    if (!inner) return nullptr;
    return std::make_unique<NcclBackend>(std::move(inner), device_, plan.name, plan.limit);
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    return Tensor::zeros({static_cast<int64_t>(bytes)}, DType::u8, device_).storage();
  }

  void abort(const std::string& reason) noexcept override {
    {
      const MutexLock lock(mutex_);
      if (aborted_.empty()) aborted_ = reason.empty() ? "aborted" : reason;
    }
    inner_->abort(reason);
    each([](Communicator& communicator) { communicator.abort(); });
  }

 private:
  using PairKey = std::pair<Op, int>;  // send or recv, the other rank

  // Returns once all ranks of the call have come with equal fingerprints.
  void compare(const Call& call) {
    Call meeting = call;
    if (!point_to_point(call.op)) meeting.op = Op::barrier;
    meeting.in = meeting.out = nullptr;
    meeting.in_memory = meeting.out_memory = nullptr;
    meeting.count = 0;
    meeting.ready = {};
    inner_->execute(meeting);
  }

  // The communicator of the call's direction. The sender makes its id.
  Communicator& pair(const Call& call) {
    const PairKey key(call.op, call.root);
    {
      const MutexLock lock(mutex_);
      if (const auto found = pairs_.find(key); found != pairs_.end()) return *found->second;
    }
    UniqueId id;
    const bool sends = call.op == Op::send;
    if (sends)
      if (const int result = api().unique_id(&id))
        throw EnvironmentError(str("[nccl] making an id: ", api().error_text(result)));
    Call hello = call;
    hello.ready = {};
    hello.in_memory = hello.out_memory = nullptr;
    hello.in = sends ? id.bytes.data() : nullptr;
    hello.out = sends ? nullptr : id.bytes.data();
    hello.dtype = DType::u8;
    hello.count = static_cast<int64_t>(id.bytes.size());
    inner_->execute(hello);
    auto made = std::make_unique<Communicator>(device_, id, sends ? 0 : 1, 2, name_ + "/pair",
                                               call.limit, check_);
    const MutexLock lock(mutex_);
    return *(pairs_[key] = std::move(made));
  }

  void check_not_aborted() {
    const MutexLock lock(mutex_);
    if (!aborted_.empty()) throw EnvironmentError(aborted_);
  }

  // Communicators are made once and live as long as this.
  template <class F>
  void each(const F& f) {
    std::vector<Communicator*> communicators;
    if (all_) communicators.push_back(all_.get());
    {
      const MutexLock lock(mutex_);
      for (const auto& [key, communicator] : pairs_) communicators.push_back(communicator.get());
    }
    for (Communicator* communicator : communicators) f(*communicator);
  }

  const std::unique_ptr<Backend> inner_;
  const Device device_;
  const std::string name_;
  // What ends a wait for NCCL.
  const Check check_ = [this] {
    check_not_aborted();
    inner_->check_running();
  };
  Mutex mutex_;
  std::string aborted_ LOCKSTEP_GUARDED_BY(mutex_);
  std::unique_ptr<Communicator> all_;  // null with one rank; constant
  std::map<PairKey, std::unique_ptr<Communicator>> pairs_ LOCKSTEP_GUARDED_BY(mutex_);
};

std::string version_text(int version) {
  return str(version / 10000, ".", version / 100 % 100, ".", version % 100, api_kind());
}

}  // namespace
}  // namespace nccl

std::string nccl_version() {
  int version = 0;
  if (const int result = nccl::api().version(&version))
    throw EnvironmentError(str("[nccl] asking for the version: ", nccl::api().error_text(result)));
  return nccl::version_text(version);
}

std::string why_no_nccl(ProcessGroup& host, Device device) {
  // A text a rank: "+VERSION\nCARD", or "-REASON".
  const std::vector<std::string> all = agree(&host, [&] {
    try {
      return str("+", nccl_version(), "\n", cuda::info(device.index).uuid);
    } catch (const Error& e) {
      return str("-", e.what());
    }
  });
  std::map<std::string, std::vector<int>> reasons, versions, cards;
  for (int rank = 0; rank < static_cast<int>(all.size()); ++rank) {
    const std::string& text = all[static_cast<size_t>(rank)];
    const size_t line = text.find('\n');
    if (text[0] == '-') {
      reasons[text.substr(1)].push_back(rank);
    } else {
      versions[text.substr(1, line - 1)].push_back(rank);
      cards[text.substr(line + 1)].push_back(rank);
    }
  }
  if (!reasons.empty())
    return str(ranks_text(reasons.begin()->second), ": ", reasons.begin()->first);
  if (versions.size() > 1)
    return str("[nccl] ", ranks_text(versions.begin()->second), " would use NCCL ",
               versions.begin()->first, ", and ", ranks_text(versions.rbegin()->second), " ",
               versions.rbegin()->first, ": install one version");
  for (const auto& [card, ranks] : cards)
    if (ranks.size() > 1)
      return str("[nccl] ", ranks_text(ranks), " share the card ", card,
                 ", which NCCL does not allow: start as many ranks as there are cards, or use "
                 "another backend");
  return "";
}

std::unique_ptr<Backend> make_nccl(std::unique_ptr<Backend> inner, Device device,
                                   const GroupOptions& options) {
  check(inner->device() == kCpu && device.type == DeviceType::cuda,
        "[nccl] expected a backend of the CPU and a CUDA device, got a backend of ",
        inner->device(), " and ", device);
  current_queue(device);  // says what is missing
  return std::make_unique<nccl::NcclBackend>(std::move(inner), device, options.name,
                                             Limit(patience_of(options.timeout)));
}

}  // namespace lockstep::comm
