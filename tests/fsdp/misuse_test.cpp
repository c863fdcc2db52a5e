// What a sharded model refuses, and by which name.
#include <gmock/gmock.h>

#include "core/nn/init.h"
#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kWidth = 24;

// Two blocks under a root.
std::shared_ptr<Tree> make_root() {
  const auto root = std::make_shared<Tree>();
  const auto blocks = std::make_shared<nn::Sequential>();
  for (int i = 0; i < 2; ++i) blocks->append(std::make_shared<nn::Linear>(kWidth, kWidth));
  root->register_module("blocks", blocks);
  const Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 1.0));
  root->body = [=](const Variable& x) { return ops::mul((*blocks)(x), scale); };
  root->initialize(3);
  return root;
}

Variable loss_of(nn::Module& root, int64_t micro = 0) {
  return ops::mean(
      ops::square(root(Variable(random({3, kWidth}, 1 + static_cast<uint32_t>(micro))))));
}

void step(FullyShardedDataParallel& sharded, nn::Module& root) {
  for (const int64_t leaf : sharded.leaves()) sharded.backward(loss_of(root, leaf));
  sharded.finish();
}

TEST(Misuse, FreezingAfterShardingIsRefusedOnAllRanks) {
  for (const bool freezes : {true, false})
    for (const int ranks : {1, 2, 4})
      for (const Options& options :
           {Options{}, Options{.accumulate = Accumulate::in_full, .find_unused_parameters = true},
            Options{.reshard = Reshard::after_step}}) {
        const auto failures = run_group(ranks, [&](const Group& group) {
          const auto root = make_root();
          const Parameter weight = root->parameters()[1];
          weight.set_requires_grad(freezes);
          const auto sharded = fully_shard(root, group, options);
          step(*sharded, *root);
          if (group->rank() == ranks - 1) weight.set_requires_grad(!freezes);  // one rank is enough
          step(*sharded, *root);
        });
        EXPECT_THAT(failures, Each(AllOf(HasSubstr("'blocks.0.weight' of unit 'blocks.0'"),
                                         HasSubstr(freezes ? "was frozen" : "was unfrozen"),
                                         HasSubstr("fully_shard()"))))
            << ranks << " ranks";
      }
}

TEST(Misuse, TheModulesOwnParametersSayWhereTheirGradientIs) {
  for (const int ranks : {1, 2})
    expect_success(run_group(ranks, [](const Group& group) {
      const auto root = make_root();
      const auto sharded = fully_shard(root, group);
      step(*sharded, *root);
      const Parameter weight = root->parameters()[1];
      const auto says = ThrowsMessage<UsageError>(
          AllOf(HasSubstr("'blocks.0.weight'"), HasSubstr("parameters()")));
      EXPECT_THAT([&] { weight.grad(); }, says);
      EXPECT_THAT([&] { weight.has_grad(); }, says);
      EXPECT_THAT([&] { optim::grad_norm(root->parameters()); },
                  ThrowsMessage<UsageError>(HasSubstr("'scale'")));
      const auto optimizer = optim::make_sgd(root->parameters());
      EXPECT_THAT([&] { optimizer->step(0.1f); },
                  ThrowsMessage<UsageError>(HasSubstr("is spread over the ranks")));
      for (const Parameter& p : sharded->parameters()) EXPECT_TRUE(p.has_grad()) << p.name();
    }));
}

// The sums of a step are not there before its end.
TEST(Misuse, SlicesHoldNoGradientWithinAStep) {
  expect_success(run_group(2, [](const Group& group) {
    const auto root = make_root();
    const auto sharded = fully_shard(root, group, {.micro_batches = 4});
    step(*sharded, *root);
    sharded->backward(loss_of(*root, 3));
    for (const Parameter& p : sharded->parameters()) EXPECT_FALSE(p.has_grad()) << p.name();
  }));
}

TEST(Misuse, PlainBackwardIsRefused) {
  const auto ours = HasSubstr("call backward(loss) of the sharded model");
  for (const int ranks : {1, 2}) {
    EXPECT_THAT(run_group(ranks,
                          [](const Group& group) {
                            const auto root = make_root();
                            const auto sharded = fully_shard(root, group);
                            loss_of(*root).backward();
                          }),
                Each(ours));
    // No output of a unit is on the way.
    EXPECT_THAT(run_group(ranks,
                          [](const Group& group) {
                            const auto root = make_root();
                            const auto sharded = fully_shard(root, group);
                            loss_of(*root);
                            ops::mean(ops::square(root->parameters()[0])).backward();
                          }),
                Each(ours));
  }
}

TEST(Misuse, AModelWhoseShardingIsGoneSaysSo) {
  const auto gone = ThrowsMessage<UsageError>(HasSubstr("was destroyed"));
  for (const int ranks : {1, 2})
    expect_success(run_group(ranks, [&](const Group& group) {
      const auto root = make_root();
      Variable graph, outside;
      {
        const auto sharded = fully_shard(root, group);
        step(*sharded, *root);
        graph = loss_of(*root);
        outside = ops::sum(root->parameters()[0]);  // differentiated without the values
      }
      EXPECT_THAT([&] { graph.backward(); }, gone);
      EXPECT_THAT([&] { outside.backward(); }, gone);
      EXPECT_THAT([&] { loss_of(*root); }, gone);
      for (const Parameter& p : root->parameters()) {
        EXPECT_THAT([&] { p.data().to_vector<float>(); }, gone) << p.name();
        EXPECT_THAT([&] { p.grad(); }, gone) << p.name();
      }
    }));
}

// The wrapper that lives goes on as if nothing had happened.
TEST(Misuse, AModelIsShardedOnce) {
  for (const bool freezes : {false, true})
    for (const auto& [ranks, rows] :
         {std::pair{1, 1}, std::pair{2, 1}, std::pair{4, 2}, std::pair{2, 2}})
      expect_success(run_group(ranks, [&, ranks = ranks, rows = rows](const Group& group) {
        const comm::DeviceMesh mesh(group, {{"replicate", rows}, {"shard", ranks / rows}});
        const auto refused = [](const std::string& name) {
          return ThrowsMessage<UsageError>(AllOf(HasSubstr("parameter '" + name + "'"),
                                                 HasSubstr("sharded"), HasSubstr("build it anew")));
        };
        const auto root = make_root();
        if (freezes) root->parameters()[0].set_requires_grad(false);
        auto sharded = fully_shard(root, mesh);
        step(*sharded, *root);
        const auto around = std::make_shared<Tree>();
        around->register_parameter("own", Tensor::full({kWidth}, 1.0));
        around->register_module("inner", root);
        const auto child = std::dynamic_pointer_cast<nn::Sequential>(root->children()[0].second);
        EXPECT_THAT([&] { fully_shard(root, mesh); }, freezes && ranks > rows
                                                          ? refused("inner.blocks.0.weight")
                                                          : refused("inner.scale"));
        EXPECT_THAT([&] { fully_shard(child, mesh); }, refused("inner.blocks.0.weight"));
        EXPECT_THAT([&] { fully_shard(around, mesh); },
                    ThrowsMessage<UsageError>(HasSubstr("was sharded before")));
        EXPECT_THAT([&] { ddp::DistributedDataParallel(root->parameters(), {}, group); },
                    ThrowsMessage<UsageError>(AllOf(HasSubstr("'inner."), HasSubstr("sharded"),
                                                    HasSubstr("build it anew"))));
        step(*sharded, *root);
        sharded.reset();
        EXPECT_THAT([&] { fully_shard(root, mesh); }, refused("inner.scale"));
      }));
  // One rank alone does it.
  EXPECT_THAT(run_group(2,
                        [](const Group& group) {
                          const auto root = make_root(), other = make_root();
                          const auto sharded = fully_shard(root, group);
                          fully_shard(group->rank() == 1 ? root : other, group);
                        }),
              Each(AllOf(HasSubstr("'scale' was sharded before"), HasSubstr("build it anew"))));
}

// Two models of one shape, used in another order on two ranks: their slices must not be mixed.
TEST(Misuse, ModelsOfOneShapeAreToldApart) {
  const auto run = [](bool trains, int shards) {
    return run_group(2, [=](const Group& group) {
      const comm::DeviceMesh mesh(group, {{"replicate", 2 / shards}, {"shard", shards}});
      const auto a = std::make_shared<nn::Linear>(8, 8), b = std::make_shared<nn::Linear>(8, 8);
      a->weight.data().fill_(1);
      b->weight.data().fill_(100);
      const auto sharded_a = fully_shard(a, mesh), sharded_b = fully_shard(b, mesh);
      const Variable x(Tensor::full({1, 8}, 1));
      const bool swapped = group->rank() == 1;
      for (const bool second : {false, true}) {
        const bool takes_b = second != swapped;
        const Variable y = takes_b ? (*b)(x) : (*a)(x);
        EXPECT_EQ(y.data().to_vector<float>()[0], takes_b ? 800.0f : 8.0f);
        if (!trains) continue;
        auto& sharded = takes_b ? *sharded_b : *sharded_a;
        sharded.backward(ops::sum(y));
        sharded.finish();
      }
    });
  };
  const auto refused = Each(
      AllOf(HasSubstr("unit 'root'"), HasSubstr("called different things"), HasSubstr("label")));
  EXPECT_THAT(run(false, 2), refused);
  EXPECT_THAT(run(true, 1), refused);
  expect_success(run(false, 1));
}

// Values that were loaded into a model without memory stay; the rest is drawn.
TEST(Misuse, LoadedValuesOfAModelWithoutMemoryAreKept) {
  const auto make = [](bool deferred, bool loads) {
    std::optional<nn::DeferredInit> without_memory;
    if (deferred) without_memory.emplace();
    const auto root = make_root();
    without_memory.reset();
    if (loads) root->parameters()[1].set_data(Tensor::full({kWidth, kWidth}, 42));
    return root;
  };
  Bits want;
  for (const Parameter& p : make(false, true)->parameters()) want[p.name()] = bits(p.data());
  for (const int ranks : {1, 2, 3}) {
    Bits got;
    expect_success(run_group(ranks, [&](const Group& group) {
      const auto root = make(true, true);
      if (group->rank() > 0) root->parameters()[1].data().fill_(7);  // rank 0's values count
      fully_shard(root, group)->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) got[name] = bits(whole);
      });
    }));
    EXPECT_EQ(got, want) << ranks << " ranks";
  }
  EXPECT_THAT(
      run_group(2, [&](const Group& group) { fully_shard(make(true, group->rank() == 0), group); }),
      Each(AllOf(HasSubstr("blocks.0.weight"), HasSubstr("without values"))));
}

}  // namespace
}  // namespace lockstep::fsdp
