// Values that change between forward and backward: a backward pass that gathers again must not go on
// with other ones than forward saw.
#include <gmock/gmock.h>

#include "core/nn/layers.h"
#include "core/optim/optimizer.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 8;

struct Net {
  std::shared_ptr<Tree> root = std::make_shared<Tree>();
  std::unique_ptr<FullyShardedDataParallel> sharded;

  explicit Net(const Group& group, bool recompute = false) {
    const auto blocks = std::make_shared<nn::Sequential>();
    for (int i = 0; i < 3; ++i) blocks->append(std::make_shared<nn::Linear>(kWidth, kWidth));
    root->register_module("blocks", blocks);
    root->body = [blocks](const Variable& x) { return (*blocks)(x); };
    root->initialize(1);
    if (recompute) blocks->children()[1].second->set_recompute();
    Options options;
    options.units_in_flight = 1;
    options.micro_batches = group->size();
    sharded = fully_shard(root, group, options);
  }
  Variable loss() const { return ops::mean(ops::square((*root)(Variable(random({2, kWidth}, 5))))); }
  void step() {
    sharded->backward(loss());
    sharded->finish();
  }
};

TEST(ChangedValues, AStepBetweenForwardAndBackwardIsRefusedOnEveryRank) {
  for (const int ranks : {1, 2})
    for (const bool recompute : {false, true}) {
      const auto failures = run_group(ranks, [&](const Group& group) {
        Net net(group, recompute);
        net.step();
        const auto sgd = optim::make_sgd(net.sharded->parameters());
        const Variable early = net.loss();
        sgd->step(0.1f);
        net.sharded->backward(early);
      });
      EXPECT_THAT(failures, Each(AllOf(HasSubstr("backward needs 'blocks."), HasSubstr("but the optimizer's step() changed it since"))))
          << ranks << " ranks, recompute " << recompute;
    }
}

TEST(ChangedValues, SlicesThatWereWrittenToAreNoticedWhetherOrNotItWasSaid) {
  for (const bool said : {true, false}) {
    const auto failures = run_group(2, [said](const Group& group) {
      Net net(group);
      const Variable early = net.loss();
      for (const auto& slice : net.sharded->slices()) slice.values.fill_(0.5);
      if (said) net.sharded->values_changed();
      net.sharded->backward(early);
    });
    EXPECT_THAT(failures, Each(HasSubstr(said ? "before the parameters changed" : "but fill_ changed it since")));
  }
}

TEST(ChangedValues, GatheringAgainIsNoChange) {
  expect_success(run_group(2, [](const Group& group) {
    Net net(group, true);
    for (int step = 0; step < 3; ++step) {
      net.step();
      optim::make_sgd(net.sharded->parameters())->step(0.1f);
    }
  }));
}

}  // namespace
}  // namespace lockstep::fsdp
