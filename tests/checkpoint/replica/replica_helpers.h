// What the tests of replicas share: a state, and ranks that die.
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "checkpoint/replica/replica.h"
#include "comm/engine/backend.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {

enum class Held : uint8_t { whole, slices, boxes };  // as in DDP, as in FSDP, and as columns

// The state of a step on a rank: several types, one tensor of more than one message, one that is
// not contiguous, an empty and a scalar one.
inline std::vector<Entry> state(Held held, int rank, int ranks, int64_t step,
                                int64_t large = 2500000) {
  std::vector<Entry> whole{Entry("w", counting({301, 7}, DType::f32, step)),
                           Entry("v", counting({41}, DType::bf16, step)),
                           Entry("large", counting({large}, DType::f32, step)),
                           Entry("none", counting({0, 3}, DType::f32, step)),
                           Entry("count", counting({}, DType::i32, step))};
  if (held == Held::whole) {
    whole.emplace_back("t", counting({5, 3}, DType::f32, step).transpose(0, 1));
    return whole;
  }
  std::vector<Entry> slices;
  for (const Entry& entry : whole) {
    if (held == Held::boxes) {
      const ShardSpec columns = cell_of(entry.tensor.shape(), rank, 1, ranks);
      slices.emplace_back(entry.name, counting_part(columns, entry.tensor.dtype(), step), columns);
      continue;
    }
    const int64_t n = entry.tensor.numel(), begin = n * rank / ranks, end = n * (rank + 1) / ranks;
    slices.emplace_back(entry.name, entry.tensor.flatten().narrow(0, begin, end - begin).clone(),
                        ShardSpec{entry.tensor.shape(), begin, end - begin});
  }
  return slices;
}

inline void overwrite(const std::vector<Entry>& entries) {
  for (const Entry& entry : entries) entry.tensor.fill_(-1);
}

inline void expect_equal(const std::vector<Entry>& entries, const std::vector<Entry>& expected) {
  ASSERT_EQ(entries.size(), expected.size());
  for (size_t i = 0; i < entries.size(); ++i)
    EXPECT_EQ(bytes_of(entries[i].tensor.contiguous()), bytes_of(expected[i].tensor.contiguous()))
        << entries[i].name;
}

// What a new group does with what its ranks find.
struct Back {
  int64_t step = -1;  // that was restored; -1: none was found
  std::string why_none = {};
  std::vector<std::string> notes = {};
  std::vector<int> from_others = {};
};
inline Back restore(ReplicaStore& store, const std::vector<Entry>& entries,
                    comm::ProcessGroup& group) {
  store.prepare(entries, group);
  const ReplicasFound found = store.find();
  Back back{.step = found.step, .why_none = found.why_none, .notes = found.notes};
  if (found.step >= 0) back.from_others = store.restore(entries).from_others;
  return back;
}

// A backend whose rank dies at its n-th call, counted over its group and those split off from it.
struct Death {
  std::atomic<int64_t> calls_left{std::numeric_limits<int64_t>::max()};
  std::function<void()> kill = [] { throw EnvironmentError("killed by the test"); };
};
class MortalBackend final : public comm::Backend {
 public:
  MortalBackend(std::unique_ptr<comm::Backend> real, std::shared_ptr<Death> death)
      : real_(std::move(real)), death_(std::move(death)) {}
  std::string name() const override { return real_->name(); }
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }
  Device device() const override { return real_->device(); }
  Event execute(const comm::Call& call) override {
    if (--death_->calls_left < 0) death_->kill();
    return real_->execute(call);
  }
  std::unique_ptr<comm::Backend> split(const comm::SplitPlan& plan) override {
    return std::make_unique<MortalBackend>(real_->split(plan), death_);
  }
  std::shared_ptr<Storage> allocate(size_t bytes) override { return real_->allocate(bytes); }
  void abort(const std::string& reason) noexcept override { real_->abort(reason); }

 private:
  std::unique_ptr<comm::Backend> real_;
  std::shared_ptr<Death> death_;
};

}  // namespace lockstep::checkpoint
