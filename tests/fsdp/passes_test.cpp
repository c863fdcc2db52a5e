// Forward passes that come in another order than their backward passes, or have none.
#include <algorithm>
#include <random>

#include <gmock/gmock.h>

#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 40;
constexpr int64_t kMicroBatches = 8;

Tensor input(int64_t micro) { return random({3, kWidth}, 1 + static_cast<uint32_t>(micro)); }

Model make_model(bool recomputes = false) {
  const auto root = std::make_shared<Tree>();
  const auto blocks = std::make_shared<nn::Sequential>();
  for (int i = 0; i < 4; ++i) {
    const auto block = std::make_shared<Tree>();
    const auto linear =
        block->register_module("linear", std::make_shared<nn::Linear>(kWidth, kWidth));
    block->body = [linear](const Variable& x) { return ops::gelu((*linear)(x)); };
    block->set_recompute(recomputes);
    blocks->append(block);
  }
  root->register_module("blocks", blocks);
  const Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 1.0));
  root->body = [=](const Variable& x) { return ops::mul((*blocks)(x), scale); };
  root->initialize(3);
  return {root, [root](int64_t micro) {
            return ops::mean(ops::square((*root)(Variable(input(micro)))));
          }};
}

using Parallel = FullyShardedDataParallel;
// Runs the micro-batches of one step.
using Order = std::function<void(Parallel&, const Model&)>;

void one_after_the_other(Parallel& sharded, const Model& model) {
  for (const int64_t leaf : sharded.leaves()) sharded.backward(model.loss(leaf));
}

Bits gradients(const Order& order, int ranks, Options options, bool recomputes) {
  Bits result;
  options.micro_batches = kMicroBatches;
  expect_success(run_group(ranks, [&](const Group& group) {
    const Model model = make_model(recomputes);
    const auto sharded = fully_shard(model.module, group, options);
    for (int step = 0; step < 2; ++step) {  // what a pass left behind would show in the second
      order(*sharded, model);
      sharded->finish();
    }
    for (const Parameter& p : sharded->parameters()) p.data().copy_(p.grad());
    sharded->values_changed();
    sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
      if (group->rank() == 0) result[name] = bits(whole);
    });
  }));
  return result;
}

struct Named {
  const char* name;
  Order order;
};

// f0 f1 b0 b1, or f0 f1 b1 b0, then the next two.
void pairs(Parallel& sharded, const Model& model, bool turned) {
  const std::vector<int64_t> leaves(sharded.leaves().begin(), sharded.leaves().end());
  for (size_t k = 0; k < leaves.size(); k += 2) {
    const Variable first = model.loss(leaves[k]), second = model.loss(leaves[k + 1]);
    if (!turned) sharded.backward(first, leaves[k]);
    sharded.backward(second, leaves[k + 1]);
    if (turned) sharded.backward(first, leaves[k]);
  }
}

std::vector<Named> orders() {
  const auto losses = [](Parallel& sharded, const Model& model) {
    std::vector<Variable> made;
    for (const int64_t leaf : sharded.leaves()) made.push_back(model.loss(leaf));
    return made;
  };
  return {{"all forward passes first",
           [losses](Parallel& sharded, const Model& model) {
             for (const Variable& loss : losses(sharded, model)) sharded.backward(loss);
           }},
          {"one forward pass ahead",
           [](Parallel& sharded, const Model& model) {
             Variable ahead;
             for (const int64_t leaf : sharded.leaves()) {
               const Variable next = model.loss(leaf);
               if (ahead.defined()) sharded.backward(ahead);
               ahead = next;
             }
             sharded.backward(ahead);
           }},
          {"evaluations with gradients on, before each backward pass",
           [](Parallel& sharded, const Model& model) {
             for (const int64_t leaf : sharded.leaves()) {
               model.loss(77);
               const Variable loss = model.loss(leaf);
               model.loss(78);
               sharded.backward(loss);
             }
           }},
          {"evaluations with gradients on, between backward passes",
           [losses](Parallel& sharded, const Model& model) {
             for (const Variable& loss : losses(sharded, model)) {
               sharded.backward(loss);
               model.loss(77);
             }
           }},
          {"pairs, the first one first",
           [](Parallel& sharded, const Model& model) { pairs(sharded, model, false); }},
          {"pairs, the second one first",
           [](Parallel& sharded, const Model& model) { pairs(sharded, model, true); }},
          {"all forward passes first, backward in the reverse order",
           [losses](Parallel& sharded, const Model& model) {
             const std::vector<Variable> made = losses(sharded, model);
             const std::vector<int64_t> leaves(sharded.leaves().begin(), sharded.leaves().end());
             for (size_t k = made.size(); k-- > 0;) sharded.backward(made[k], leaves[k]);
           }},
          {"one after the other, in any order",
           [](Parallel& sharded, const Model& model) {
             std::vector<int64_t> leaves(sharded.leaves().begin(), sharded.leaves().end());
             std::mt19937_64 engine(3);  // the k-th ones together on all ranks
             std::shuffle(leaves.begin(), leaves.end(), engine);
             for (const int64_t leaf : leaves) sharded.backward(model.loss(leaf), leaf);
           }},
          {"the second one named, the others as they come",
           [](Parallel& sharded, const Model& model) {
             const int64_t second = sharded.leaves().front() + sharded.leaves().step();
             sharded.backward(model.loss(second), second);
             for (const int64_t leaf : sharded.leaves())
               if (leaf != second) sharded.backward(model.loss(leaf));
           }},
          {"a pass without gradients before each", [](Parallel& sharded, const Model& model) {
             for (const int64_t leaf : sharded.leaves()) {
               {
                 const NoGradGuard no_grad;
                 model.loss(77);
               }
               sharded.backward(model.loss(leaf));
             }
           }}};
}

TEST(Passes, NoOrderChangesTheGradients) {
  for (const bool recomputes : {false, true}) {
    const Bits want = gradients(one_after_the_other, 1, {}, recomputes);
    for (const Named& named : orders())
      for (const int ranks : {1, 2, 4})
        for (const Options& options :
             {Options{.units_in_flight = 1}, Options{}, Options{.reshard = Reshard::after_step},
              Options{.accumulate = Accumulate::in_full}, Options{.nearby = 1}})
          EXPECT_EQ(gradients(named.order, ranks, options, recomputes), want)
              << named.name << ", " << ranks << " ranks, recomputes " << recomputes
              << ", in flight " << options.units_in_flight;
  }
}

// Rows of two; and three ranks, which share their micro-batches unevenly.
TEST(Passes, NoOrderChangesTheGradientsOfRows) {
  const auto train = [](const std::function<void(Parallel&, const Model&)>& order, int ranks,
                        int rows, Options options) {
    Bits result;
    options.micro_batches = kMicroBatches;
    expect_success(run_group(ranks, [&](const Group& group) {
      const Model model = make_model();
      const comm::DeviceMesh mesh(group, {{"replicate", rows}, {"shard", ranks / rows}});
      const auto sharded = fully_shard(model.module, mesh, options);
      for (int step = 0; step < 2; ++step) {
        order(*sharded, model);
        sharded->finish();
      }
      for (const Parameter& p : sharded->parameters()) p.data().copy_(p.grad());
      sharded->values_changed();
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) result[name] = bits(whole);
      });
    }));
    return result;
  };
  const auto turned = [](Parallel& sharded, const Model& model) { pairs(sharded, model, true); };
  const auto last_first = [](Parallel& sharded, const Model& model) {
    std::vector<int64_t> leaves(sharded.leaves().begin(), sharded.leaves().end());
    std::reverse(leaves.begin(), leaves.end());
    for (const int64_t leaf : leaves) sharded.backward(model.loss(leaf), leaf);
  };
  const Bits want = train(one_after_the_other, 1, 1, {});
  EXPECT_EQ(train(turned, 4, 2, {}), want);
  EXPECT_EQ(train(turned, 2, 2, {}), want);
  for (const Options& options : {Options{}, Options{.reshard = Reshard::after_step},
                                 Options{.accumulate = Accumulate::in_full}})
    EXPECT_EQ(train(last_first, 3, 1, options), want);
}

TEST(Passes, AMicroBatchThatCannotBeDoneIsNamed) {
  const auto refused = [](const std::function<void(Parallel&, const Model&)>& order, int ranks) {
    const auto failures = run_group(ranks, [&](const Group& group) {
      const Model model = make_model();
      const auto sharded = fully_shard(model.module, group, {.micro_batches = kMicroBatches});
      order(*sharded, model);
    });
    return failures;
  };
  EXPECT_THAT(refused(
                  [](Parallel& sharded, const Model& model) {
                    const int64_t leaf = sharded.leaves().back();
                    sharded.backward(model.loss(leaf), leaf);
                    sharded.backward(model.loss(leaf), leaf);
                  },
                  2),
              Each(HasSubstr("had its backward() in this step")));
  for (const int64_t other : {int64_t{-1}, kMicroBatches})
    EXPECT_THAT(refused([other](Parallel& sharded,
                                const Model& model) { sharded.backward(model.loss(0), other); },
                        1),
                Each(HasSubstr(str("micro-batch ", other, " is not run by rank 0"))));
  // The ranks' micro-batches are dealt out in turn: the first rank has the even ones.
  EXPECT_THAT(refused(
                  [](Parallel& sharded, const Model& model) {
                    const int64_t others = sharded.leaves().front() + 1;
                    sharded.backward(model.loss(others), others);
                  },
                  2),
              Each(HasSubstr("is not run by rank")));
}

// Each would add the right terms, but to those of another round.
TEST(Passes, RanksThatTakeMicroBatchesInOtherOrdersFail) {
  EXPECT_THAT(run_group(2,
                        [](const Group& group) {
                          const Model model = make_model();
                          const auto sharded =
                              fully_shard(model.module, group, {.micro_batches = kMicroBatches});
                          const int64_t leaf = group->rank() == 0 ? sharded->leaves().front()
                                                                  : sharded->leaves().back();
                          sharded->backward(model.loss(leaf), leaf);
                          sharded->finish();
                        }),
              Each(AllOf(HasSubstr("called different things"), HasSubstr("label"))));
}

// Two passes through the model, and one loss.
TEST(Passes, OneLossMayComeFromTwoPasses) {
  const auto make = [] {
    Model model = make_model();
    model.loss = [root = model.module](int64_t micro) {
      const Variable a = (*root)(Variable(input(micro)));
      return ops::mean(ops::mul(a, (*root)(Variable(input(micro + 100)))));
    };
    return model;
  };
  const Bits want = train_reference({.make = make});
  for (const int ranks : {1, 2, 4})
    EXPECT_EQ(train_sharded({.make = make, .options = {.units_in_flight = 1}}, ranks), want)
        << ranks;
}

// All ranks evaluate, with gradients on; then one of them has no input left.
TEST(Passes, ARankThatSkipsRepeatsTheMicroBatchAlone) {
  std::vector<Bits> seen(2);
  for (const bool evaluates : {false, true})
    expect_success(run_group(2, [&](const Group& group) {
      const Model model = make_model();
      const auto sharded = fully_shard(model.module, group, {.units_in_flight = 1});
      for (int step = 0; step < 3; ++step) {
        const bool have = group->rank() == 0 || step == 0;
        ASSERT_GT(sharded->active_ranks(have), 0);
        if (evaluates) model.loss(77);
        if (have)
          sharded->backward(model.loss(step));
        else
          sharded->skip();
        sharded->finish();
      }
      for (const Parameter& p : sharded->parameters()) p.data().copy_(p.grad());
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) seen[evaluates][name] = bits(whole);
      });
    }));
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_FALSE(seen[0].empty());
}

// The gradients would be those of other weights.
TEST(Passes, AForwardPassBelongsToItsStep) {
  for (const int ranks : {1, 2})
    EXPECT_THAT(run_group(ranks,
                          [](const Group& group) {
                            const Model model = make_model();
                            const auto sharded = fully_shard(model.module, group);
                            const Variable early = model.loss(5);
                            sharded->backward(model.loss(group->rank()));
                            sharded->finish();
                            sharded->backward(early);
                          }),
                Each(AllOf(HasSubstr("before the parameters changed"), HasSubstr("unit 'root'"))))
        << ranks << " ranks";
}

// What is gathered between finish() and the optimizer's step has the values before it.
TEST(Passes, AnEvaluationBeforeTheOptimizersStepLeavesNoOldValues) {
  for (const int ranks : {1, 2, 4})
    for (const Reshard reshard : {Reshard::after_forward, Reshard::after_step}) {
      std::vector<std::vector<uint32_t>> seen;
      for (const bool evaluates : {false, true}) {
        std::vector<uint32_t> output;
        expect_success(run_group(ranks, [&](const Group& group) {
          const Model model = make_model();
          const auto sharded = fully_shard(model.module, group, {.reshard = reshard});
          const auto optimizer = optim::make_sgd(sharded->parameters());
          const NoGradGuard no_grad;
          const auto evaluate = [&] { return bits((*model.module)(Variable(input(77))).data()); };
          for (int step = 0; step < 2; ++step) {
            {
              const EnableGradGuard grad;
              sharded->backward(model.loss(group->rank()));
            }
            sharded->finish();
            if (evaluates) evaluate();
            optimizer->step(0.5f);
            optimizer->zero_grad();
            const auto now = evaluate();
            if (group->rank() == 0) output = now;
          }
        }));
        seen.push_back(output);
      }
      EXPECT_EQ(seen[0], seen[1]) << ranks << " ranks, reshard " << static_cast<int>(reshard);
      EXPECT_FALSE(seen[0].empty());
    }
}

// The last two own padding alone, and see no change of their own.
TEST(Passes, RanksWithoutSlicesLetOldValuesGoWithTheOthers) {
  std::vector<std::vector<float>> outputs(4);
  expect_success(run_group(4, [&](const Group& group) {
    const auto linear = std::make_shared<nn::Linear>(2, 2);
    linear->weight.data().fill_(1);
    const auto sharded = fully_shard(linear, group);
    EXPECT_EQ(sharded->parameters().empty(), group->rank() > 1);
    const Variable x(Tensor::full({1, 2}, 1));
    sharded->backward(ops::sum((*linear)(x)));
    sharded->finish();
    const NoGradGuard no_grad;
    (*linear)(x);
    for (const Parameter& p : sharded->parameters())
      if (p.name() == "weight") p.data().fill_(3);
    outputs[static_cast<size_t>(group->rank())] = (*linear)(x).data().to_vector<float>();
  }));
  for (const auto& output : outputs) EXPECT_EQ(output, (std::vector<float>{6, 6}));
}

// However many micro-batches a step has, each has a label of its own.
TEST(Passes, RanksThatTakeManyMicroBatchesInDifferentOrdersFail) {
  constexpr int64_t kMany = 4096, kApart = 1024;
  const auto messages = run_group(2, [&](const Group& group) {
    const auto linear = std::make_shared<nn::Linear>(2, 2);
    linear->initialize(1);
    const auto sharded = fully_shard(linear, group, {.micro_batches = kMany});
    const Variable x(Tensor::full({1, 2}, 1));
    std::vector<int64_t> leaves;
    for (const int64_t leaf : sharded->leaves()) leaves.push_back(leaf);
    if (group->rank() == 1) std::rotate(leaves.begin(), leaves.begin() + kApart, leaves.end());
    for (const int64_t leaf : leaves) sharded->backward(ops::sum((*linear)(x)), leaf);
    sharded->finish();
  });
  EXPECT_THAT(messages, Each(HasSubstr("ranks called different things")));
}

}  // namespace
}  // namespace lockstep::fsdp
