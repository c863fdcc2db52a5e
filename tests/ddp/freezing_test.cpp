// Parameters that are frozen or unfrozen after the model was wrapped.
#include <gmock/gmock.h>

#include "core/optim/optimizer.h"
#include "ddp/ddp.h"
#include "tests/ddp/net.h"

namespace lockstep::ddp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using test::expect_success;
using test::Group;
using test::Net;
using test::run_group;

// Which of Net's parameters each step trains. Between neighbours some join, some leave, or both.
const std::vector<std::vector<size_t>> kSteps{{0, 1, 2, 3}, {0, 2, 3},    {0, 2, 3},
                                              {1},          {0, 1, 2, 3}, {2, 3}};

struct Seen {
  std::vector<std::vector<uint32_t>> weights;  // after each step
};

// Trains four micro-batches a step; `wrapped_with` is trained when the wrapper is made.
Seen train(int ranks, const std::vector<size_t>& wrapped_with, Options options = {}) {
  std::vector<Seen> seen(static_cast<size_t>(ranks));
  options.micro_batches = 4;
  expect_success(run_group(ranks, [&](const Group& group) {
    const Net net;
    const auto train_only = [&](const std::vector<size_t>& trained) {
      for (size_t i = 0; i < net.parameters.size(); ++i)
        net.parameters[i].set_requires_grad(std::find(trained.begin(), trained.end(), i) !=
                                            trained.end());
    };
    train_only(wrapped_with);
    DistributedDataParallel ddp(net.parameters, {}, group, options);
    const auto optimizer =
        optim::make_adamw(net.parameters, {.weight_decay = 0.1f, .decays = optim::decay_all});
    for (size_t step = 0; step < kSteps.size(); ++step) {
      train_only(kSteps[step]);
      for (int64_t m = ddp.tree().begin(group->rank()); m < ddp.tree().begin(group->rank() + 1);
           ++m)
        ddp.backward(net.loss(m));
      ddp.finish();
      for (const Parameter& p : net.parameters)
        EXPECT_EQ(p.has_grad(), p.requires_grad()) << p.name() << " in step " << step;
      optimizer->step(0.01f);
      optimizer->zero_grad();
      std::vector<uint32_t> weights;
      for (const Parameter& p : net.parameters)
        for (float f : p.data().to_vector<float>()) weights.push_back(std::bit_cast<uint32_t>(f));
      seen[static_cast<size_t>(group->rank())].weights.push_back(std::move(weights));
    }
  }));
  for (const Seen& rank : seen) EXPECT_EQ(rank.weights, seen[0].weights) << "ranks drift apart";
  return seen[0];
}

TEST(DdpFreezing, StepsFollowWhatIsFrozenAndUnfrozen) {
  const Seen reference = train(1, {0, 1, 2, 3});
  ASSERT_EQ(reference.weights.size(), kSteps.size());
  for (int ranks : {1, 2, 3, 4})
    for (const std::vector<size_t>& wrapped_with :
         {std::vector<size_t>{0, 1, 2, 3}, std::vector<size_t>{1}})
      for (int64_t bytes : {1, 1 << 20})
        for (bool unused : {false, true}) {
          const Options options{
              .first_bucket_bytes = bytes, .bucket_bytes = bytes, .find_unused_parameters = unused};
          EXPECT_EQ(train(ranks, wrapped_with, options).weights, reference.weights)
              << ranks << " ranks";
        }
}

// Gradients become final in another order than the reverse one of registration.
TEST(DdpFreezing, BucketsFollowTheOrderOfGradientsAgainAfterAChange) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"last", test::random({4, 4}, 1)},
                                            {"middle", test::random({4, 4}, 2)},
                                            {"first", test::random({4, 4}, 3)}};
    DistributedDataParallel ddp(parameters, {}, group,
                                {.first_bucket_bytes = 1, .bucket_bytes = 1});
    const auto step = [&] {
      Variable h(test::random({3, 4}, 100));
      for (size_t i : {2, 1, 0}) h = ops::linear(h, parameters[i], {});
      ddp.backward(ops::sum(h));
      ddp.finish();
    };
    step();
    EXPECT_EQ(ddp.layout(), (BucketLayout{{0}, {1}, {2}}));
    parameters[1].set_requires_grad(false);
    step();
    EXPECT_EQ(ddp.layout(), (BucketLayout{{0}, {1}})) << "of 'last' and 'first'";
    parameters[1].set_requires_grad(true);
    step();
    EXPECT_EQ(ddp.layout(), (BucketLayout{{0}, {1}, {2}}));
  }));
}

// What one of the ranks does to its parameters between two steps.
std::vector<std::string> failures_after(
    const std::function<void(int rank, const std::vector<Parameter>&)>& change) {
  return run_group(3, [&](const Group& group) {
    const Net net;
    net.parameters[3].set_requires_grad(false);
    DistributedDataParallel ddp(net.parameters, {}, group);
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    change(group->rank(), net.parameters);
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    ADD_FAILURE() << "rank " << group->rank() << " went on";
  });
}

TEST(DdpFreezing, RanksThatFreezeDifferentlyAreNamed) {
  const auto failures = failures_after([](int rank, const std::vector<Parameter>& parameters) {
    if (rank == 2)
      parameters[1].set_requires_grad(false);
    else
      parameters[3].set_requires_grad(true);
  });
  for (const std::string& failure : failures)
    EXPECT_THAT(failure, AllOf(HasSubstr("of 'in.bias', rank 0 trains it and rank 2 has it frozen"),
                               HasSubstr("set_requires_grad()")));
}

TEST(DdpFreezing, AChangeOnOneRankAloneFailsOnAllRanks) {
  for (const bool trained : {false, true}) {
    const size_t index = trained ? 3 : 0;
    const auto failures = failures_after([&](int rank, const std::vector<Parameter>& parameters) {
      if (rank == 1) parameters[index].set_requires_grad(trained);
    });
    EXPECT_THAT(failures[1], HasSubstr(trained ? "since 'spare' changed on rank 1"
                                               : "since 'in.weight' changed on rank 1"));
    for (const std::string& failure : failures)
      EXPECT_THAT(failure, AllOf(HasSubstr("rank 0 called all_reduce"),
                                 HasSubstr("but rank 1 called all_reduce"),
                                 HasSubstr("(u8, 8 elements, min, ")));
  }
}

TEST(DdpFreezing, ChangesWithinAStepAreNamed) {
  // After the forward pass.
  EXPECT_THAT(run_group(1,
                        [&](const Group& group) {
                          const Net net;
                          DistributedDataParallel ddp(net.parameters, {}, group);
                          const Variable loss = net.loss(0);
                          net.parameters[1].set_requires_grad(false);
                          ddp.backward(loss);
                        })[0],
              AllOf(HasSubstr("'in.bias' received a gradient, but was frozen when the step began"),
                    HasSubstr("before the forward pass")));
  // Between two micro-batches.
  for (const bool trained : {false, true})
    EXPECT_THAT(run_group(1,
                          [&](const Group& group) {
                            const Net net;
                            net.parameters[1].set_requires_grad(!trained);
                            DistributedDataParallel ddp(net.parameters, {}, group,
                                                        {.micro_batches = 2});
                            ddp.backward(net.loss(0));
                            net.parameters[1].set_requires_grad(trained);
                            ddp.backward(net.loss(1));
                          })[0],
                HasSubstr(trained ? "'in.bias' received a gradient, but was frozen"
                                  : "no gradient reached 'in.bias'"));
}

TEST(DdpFreezing, AllFrozenIsRefused) {
  const auto failures = failures_after([](int, const std::vector<Parameter>& parameters) {
    for (const Parameter& p : parameters) p.set_requires_grad(false);
  });
  for (const std::string& failure : failures)
    EXPECT_THAT(failure, HasSubstr("there is nothing to train"));
}

}  // namespace
}  // namespace lockstep::ddp
