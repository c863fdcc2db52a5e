// Optimizers and the gradient norm over slices, against one rank that holds the whole.
#include <gmock/gmock.h>

#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using test::bits;
using test::expect_success;
using test::Group;
using test::run_group;

constexpr int64_t kMicroBatches = 4;

test::Model make() {
  const auto root = std::make_shared<test::Tree>();
  const auto w = root->register_parameter("w", Tensor::empty({40, 40})),
             scale = root->register_parameter("scale", Tensor::empty({40}));
  for (const Parameter& p : {w, scale})
    p.data().copy_(test::random(p.shape(), static_cast<uint32_t>(p.data().numel())));
  root->body = [w, scale](const Variable& x) { return ops::mul(ops::linear(x, w, {}), scale); };
  return {root, [root](int64_t m) {
            return ops::mean(
                ops::square((*root)(Variable(test::random({3, 40}, static_cast<uint32_t>(m))))));
          }};
}

using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(std::vector<Parameter>)>;

// Two steps with the optimizers' own rule of what decays.
test::Bits train(int ranks, const MakeOptimizer& make_optimizer) {
  test::Bits result;
  expect_success(run_group(ranks, [&](const Group& group) {
    const test::Model model = make();
    const auto sharded = fully_shard(model.module, group, {.micro_batches = kMicroBatches});
    const auto optimizer = make_optimizer(sharded->parameters());
    for (int step = 0; step < 2; ++step) {
      for (const int64_t leaf : sharded->leaves()) sharded->backward(model.loss(leaf));
      sharded->finish();
      optimizer->step(0.01f);
    }
    sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
      if (group->rank() == 0) result[name] = bits(whole);
    });
  }));
  return result;
}

test::Bits train_whole(const MakeOptimizer& make_optimizer) {
  test::Bits result;
  expect_success(run_group(1, [&](const Group& group) {
    const test::Model model = make();
    ddp::DistributedDataParallel ddp(model.module->parameters(), {}, group,
                                     {.micro_batches = kMicroBatches});
    const auto optimizer = make_optimizer(model.module->parameters());
    for (int step = 0; step < 2; ++step) {
      for (int64_t m = 0; m < kMicroBatches; ++m) ddp.backward(model.loss(m));
      ddp.finish();
      optimizer->step(0.01f);
    }
    for (const Parameter& p : model.module->parameters()) result[p.name()] = bits(p.data());
  }));
  return result;
}

TEST(FsdpOptimizer, DefaultsOfWeightDecayAreThoseOfTheWhole) {
  const std::vector<MakeOptimizer> kinds{
      [](auto p) { return optim::make_adamw(p, {.weight_decay = 0.5f}); },
      [](auto p) { return optim::make_adam(p, {.weight_decay = 0.5f}); },
      [](auto p) { return optim::make_sgd(p, {.weight_decay = 0.5f}); }};
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    const test::Bits want = train_whole(kinds[kind]);
    for (const int ranks : {1, 2, 3})
      EXPECT_EQ(train(ranks, kinds[kind]), want)
          << "optimizer " << kind << ", " << ranks << " ranks";
  }
}

TEST(FsdpOptimizer, TheNormOfSlicesIsThatOfTheWhole) {
  double want = 0;
  expect_success(run_group(1, [&](const Group& group) {
    const test::Model model = make();
    ddp::DistributedDataParallel ddp(model.module->parameters(), {}, group,
                                     {.micro_batches = kMicroBatches});
    for (int64_t m = 0; m < kMicroBatches; ++m) ddp.backward(model.loss(m));
    ddp.finish();
    want = optim::grad_norm(model.module->parameters());
  }));
  ASSERT_GT(want, 0.0);
  for (const int ranks : {1, 2, 4})
    expect_success(run_group(ranks, [&](const Group& group) {
      const test::Model model = make();
      const auto sharded = fully_shard(model.module, group, {.micro_batches = kMicroBatches});
      for (const int64_t leaf : sharded->leaves()) sharded->backward(model.loss(leaf));
      sharded->finish();
      EXPECT_EQ(test::norm(*model.module, sharded->parameters(), *group), want)
          << ranks << " ranks";
      if (sharded->parameters().empty()) return;
      // Each rank's own norm would clip each slice by another factor.
      std::string error;
      try {
        optim::grad_norm(sharded->parameters());
      } catch (const UsageError& e) {
        error = e.what();
      }
      EXPECT_THAT(error, AllOf(HasSubstr("is elements "), HasSubstr("or_over_ranks")))
          << "rank " << group->rank() << " of " << ranks;
    }));
}

}  // namespace
}  // namespace lockstep::fsdp
