#include "comm/local/factory.h"
#include "comm/local/hash_store.h"
#include "comm/shm/collectives.h"
#include "comm/shm/factory.h"

namespace lockstep::comm {
namespace shm {
namespace {

std::unique_ptr<Backend> make(std::shared_ptr<Store> store, int rank, int size,
                              const std::string& name, const Limit& limit, const Kin& kin);

class ShmBackend final : public Backend {
 public:
  ShmBackend(std::shared_ptr<Store> store, int rank, int size, const std::string& name,
             const Limit& limit, const Kin& kin)
      : store_(std::move(store)),
        group_(*store_, rank, size, name, limit, kin),
        arena_(std::make_shared<Arena>()),
        collectives_(group_, arena_),
        messages_(group_) {}

  std::string name() const override { return "shm"; }
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  Device device() const override { return kCpu; }

  Event execute(const Call& call) override {
    group_.arrive();
    point_to_point(call.op) ? messages_.execute(call) : collectives_.execute(call);
    return {};
  }

  void check_running() override { group_.check_running(); }

  std::unique_ptr<Backend> split(const SplitPlan& plan) override {
    if (plan.color < 0) return nullptr;
    Kin kin;
    for (const int rank : plan.ranks) kin.pids.push_back(group_.member(rank).pid);
    kin.check = [&](const std::vector<int>& missing) {
      std::vector<int> here;
      for (const int rank : missing) here.push_back(plan.ranks[static_cast<size_t>(rank)]);
      group_.check_there(here);
    };
    return make(with_prefix(store_, plan.name), plan.rank, static_cast<int>(plan.ranks.size()),
                plan.name, plan.limit, kin);
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override { return arena_->allocate(bytes); }
  void abort(const std::string& reason) noexcept override { group_.abort(reason); }

 private:
  const std::shared_ptr<Store> store_;
  Group group_;
  const std::shared_ptr<Arena> arena_;
  Collectives collectives_;
  Messages messages_;
};

std::unique_ptr<Backend> make(std::shared_ptr<Store> store, int rank, int size,
                              const std::string& name, const Limit& limit, const Kin& kin) {
  // A single rank shares memory with no other rank.
  if (size == 1) return make_local(std::make_shared<HashStore>(), rank, size, {.name = name});
  check(size <= 128, "[comm] backend 'shm' takes at most 128 ranks, got ", size);
  return std::make_unique<ShmBackend>(std::move(store), rank, size, name, limit, kin);
}

}  // namespace
}  // namespace shm

std::unique_ptr<Backend> make_shm(std::shared_ptr<Store> store, int rank, int size,
                                  const GroupOptions& options) {
  return shm::make(std::move(store), rank, size, options.name, Limit(patience_of(options.timeout)),
                   {});
}

}  // namespace lockstep::comm
