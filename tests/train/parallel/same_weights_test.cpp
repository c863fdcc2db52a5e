// Replicas of the weights that drift apart: a run must end with an error that names the rank, and
// not with other weights.
#include "train/parallel/same_weights.h"

#include <algorithm>
#include <atomic>
#include <filesystem>

#include <gmock/gmock.h>

#include "checkpoint/checkpoint.h"
#include "comm/engine/backend.h"
#include "comm/local/factory.h"
#include "comm/peer_failure.h"
#include "tests/support/run_group.h"
#include "tests/support/temp_dir.h"
#include "train/run/loop.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

// Delivers 20 wrong values in one rank's result of a large all_reduce.
class FaultyBackend final : public comm::Backend {
 public:
  // `fault_at`: in which of them; 0: in none.
  FaultyBackend(std::unique_ptr<comm::Backend> real, int fault_at)
      : real_(std::move(real)), fault_at_(fault_at) {}
  std::string name() const override { return real_->name(); }
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }
  Device device() const override { return real_->device(); }
  Event execute(const comm::Call& call) override {
    const Event done = real_->execute(call);
    if (call.op == comm::Op::all_reduce && call.dtype == DType::f32 && call.count >= 100 &&
        ++large_ == fault_at_)
      for (int i = 0; i < 20; ++i) static_cast<float*>(call.out)[5 * i] += 1.0f;
    return done;
  }
  std::unique_ptr<comm::Backend> split(const comm::SplitPlan& plan) override {
    return real_->split(plan);
  }
  std::shared_ptr<Storage> allocate(size_t bytes) override { return real_->allocate(bytes); }
  void abort(const std::string& reason) noexcept override { real_->abort(reason); }

 private:
  const std::unique_ptr<comm::Backend> real_;
  const int fault_at_;
  int large_ = 0;
};

class DriftingRun : public testing::Test {
 protected:
  static constexpr int kRanks = 3;

  Config config(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> sets = {"run.dir=" + dir_.path(), "run.name=run"};
    sets.insert(sets.end(), more.begin(), more.end());
    return parse_config(
        "data: {kind: random}\n"
        "model: {kind: mlp, layers: 1, dim: 32, block: 8, vocab: 4}\n"
        "train: {steps: 12, global_batch: 6, micro_batch: 2, eval_batches: 0}\n",
        "test", sets);
  }

  // What each rank threw. Rank 2 gets wrong gradients in step `faulty_step`.
  std::vector<std::string> run(const Config& config, int faulty_step) {
    const auto store = std::make_shared<comm::HashStore>();
    testing::internal::CaptureStdout();
    blames_peer_ = 0;
    std::vector<std::string> failures(kRanks);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < kRanks; ++rank)
      threads.emplace_back([&, rank] {
        const comm::GroupOptions options;
        auto backend = std::make_unique<FaultyBackend>(
            comm::make_local(store, rank, kRanks, options), rank == 2 ? faulty_step : 0);
        try {
          run_training(config, comm::create(std::move(backend), nullptr, options), {});
        } catch (const std::exception& e) {
          failures[static_cast<size_t>(rank)] = e.what();
          blames_peer_ += comm::caused_by_peer(e);
        }
      });
    for (auto& thread : threads) thread.join();
    testing::internal::GetCapturedStdout();
    return failures;
  }

  size_t saved() const {
    return checkpoint::list(dir_.path() + "/run/checkpoints", checkpoint::Check::everything).size();
  }

  const test::TempDir dir_;
  std::atomic<int> blames_peer_{0};
};

TEST_F(DriftingRun, EndsAtTheNextComparison) {
  const auto failures = run(config({"parallel.check_every=4"}), 6);
  EXPECT_THAT(failures, Each(AllOf(HasSubstr("after step 8, rank 2 (host "),
                                   HasSubstr("holds other weights than ranks 0 and 1"),
                                   HasSubstr("differ first in 'layers.0.weight'"),
                                   HasSubstr("After step 4 they were equal"))));
  EXPECT_EQ(blames_peer_, 2) << "the ranks that are right blame the other one";
  EXPECT_EQ(saved(), 0U);
}

TEST_F(DriftingRun, NeverSavesWrongWeights) {
  const auto failures = run(config({"parallel.check_every=1000", "checkpoint.every=3"}), 5);
  EXPECT_THAT(failures, Each(HasSubstr("after step 6, rank 2")));
  EXPECT_EQ(saved(), 1U) << "of step 3";
}

TEST_F(DriftingRun, IsSeenAtItsEnd) {
  EXPECT_THAT(run(config(), 12), Each(HasSubstr("after step 12, rank 2")));
  EXPECT_EQ(saved(), 0U);
}

TEST_F(DriftingRun, IsNotLookedForWithZero) {
  test::expect_success(run(config({"parallel.check_every=0"}), 5));
}

TEST_F(DriftingRun, IsNotSeenWhereNothingIsWrong) {
  test::expect_success(run(config({"parallel.check_every=1", "checkpoint.every=3"}), 0));
}

Config sharded(const std::vector<std::string>& sets) {
  return parse_config(
      "data: {kind: random}\n"
      "model: {kind: mlp, layers: 1, dim: 16, block: 8, vocab: 4}\n"
      "train: {steps: 12, global_batch: 8, micro_batch: 2, eval_batches: 0}\n"
      "parallel: {strategy: fsdp}\n",
      "test", sets);
}

// Changes a value that this rank holds, and compares.
void flip_and_check(Trainer& trainer, bool flip) {
  trainer.step();
  const std::vector<StatePart> state = trainer.state();
  const auto held = std::find_if(state.begin(), state.end(),
                                 [](const StatePart& part) { return part.shard.length() > 0; });
  if (flip) {
    ASSERT_NE(held, state.end());
    held->values.span<float>().back() += 1.0f;
  }
  trainer.check_weights();
}

TEST(SameWeights, ComparesTheReplicasOfHybridShards) {
  const auto failures = test::run_group(4, [](const test::Group& group) {
    Trainer trainer(sharded({"parallel.shard=hybrid", "parallel.mesh=[2, 2]"}), group);
    flip_and_check(trainer, group->rank() == 3);
  });
  EXPECT_THAT(failures, Each(HasSubstr("after step 1, ranks 1 and 3 hold different weights, and it "
                                       "is not known whose are right")));
}

TEST(SameWeights, HasNothingToCompareInFullShards) {
  test::expect_success(test::run_group(4, [](const test::Group& group) {
    Trainer trainer(sharded({}), group);
    flip_and_check(trainer, group->rank() == 0);
  }));
}

}  // namespace
}  // namespace lockstep::train
