// Ranks are threads here: what differs between backends is the conformance suite's business.
#include "ddp/ddp.h"

#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>

#include "tests/ddp/net.h"

namespace lockstep::ddp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

using test::bits;
using test::expect_success;
using test::Group;
using test::Net;
using test::run_group;

// The gradients after `steps` steps of V micro-batches, as every rank sees them.
std::vector<std::vector<uint32_t>> gradients(int ranks, int64_t micro_batches, Options options = {},
                                             int steps = 1) {
  std::vector<std::vector<uint32_t>> out(static_cast<size_t>(ranks));
  options.micro_batches = micro_batches;
  expect_success(run_group(ranks, [&](const Group& group) {
    Net net;
    DistributedDataParallel ddp(net.parameters, {}, group, options);
    for (int step = 0; step < steps; ++step) {
      for (const Parameter& p : net.parameters) p.zero_grad();
      for (int64_t m = ddp.tree().begin(group->rank()); m < ddp.tree().begin(group->rank() + 1);
           ++m)
        ddp.backward(net.loss(m + step * micro_batches));
      ddp.finish();
    }
    out[static_cast<size_t>(group->rank())] = bits(net.parameters);
  }));
  return out;
}

TEST(Ddp, GradientsHaveTheSameBitsForEveryNumberOfRanks) {
  for (int64_t micro_batches : {8, 11}) {
    const auto reference = gradients(1, micro_batches)[0];
    ASSERT_GT(reference.size(), 400u);
    for (int ranks : {2, 3, 4, 5, 8})
      for (const auto& rank : gradients(ranks, micro_batches))
        EXPECT_EQ(rank, reference) << ranks << " ranks, " << micro_batches << " micro-batches";
  }
}

TEST(Ddp, BucketsDoNotChangeTheBits) {
  const auto reference = gradients(4, 8, {}, 3)[0];
  for (int64_t bytes : {1, 300, 1 << 30})
    EXPECT_EQ(gradients(4, 8, {.first_bucket_bytes = bytes, .bucket_bytes = bytes}, 3)[0],
              reference)
        << bytes;
}

TEST(Ddp, GradientsAreTheMeanOverMicroBatches) {
  Net net;
  const auto averaged = gradients(2, 4)[0];
  for (int64_t m = 0; m < 4; ++m) net.loss(m).backward(Tensor::full({}, 0.25));
  const auto plain = bits(net.parameters);
  ASSERT_EQ(averaged.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i)  // another order of summation: equal but for rounding
    EXPECT_NEAR(std::bit_cast<float>(averaged[i]), std::bit_cast<float>(plain[i]),
                1e-4 * (1 + std::abs(std::bit_cast<float>(plain[i]))));
}

TEST(Ddp, NoSyncAccumulatesLikeMoreMicroBatches) {
  const auto reference = gradients(2, 8)[0];
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    DistributedDataParallel ddp(net.parameters, {}, group);  // believes in one micro-batch a rank
    for (int64_t m = 0; m < 4; ++m) {
      std::optional<DistributedDataParallel::NoSync> guard;
      if (m < 3) guard.emplace(ddp);
      ddp.backward(net.loss(group->rank() * 4 + m));
    }
    ddp.finish();
    for (const Parameter& p :
         net.parameters)  // it weighted each with 1/2 instead of 1/8, both powers of two
      kernels(kCpu).axpby(current_queue(kCpu), DType::f32, p.grad().numel(), 0.25f, p.grad().raw(),
                          0.0f, p.grad().raw());
    EXPECT_EQ(bits(net.parameters), reference);
  }));
}

TEST(Ddp, TheFirstBackwardAfterAGuardCommunicatesWhateverTheShare) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    // Four a rank, of which only two are run.
    DistributedDataParallel ddp(net.parameters, {}, group, {.micro_batches = 8});
    for (int step = 0; step < 2; ++step) {
      {
        const auto guard = ddp.no_sync();
        ddp.backward(net.loss(2 * group->rank()));
      }
      ddp.backward(net.loss(2 * group->rank() + 1));
      ddp.finish();
    }
    const auto sum = bits(net.parameters);
    const auto of_four = gradients(1, 4)[0];  // weighted 1/4 instead of 1/8
    ASSERT_EQ(sum.size(), of_four.size());
    for (size_t i = 0; i < sum.size(); ++i)
      EXPECT_EQ(2 * std::bit_cast<float>(sum[i]), std::bit_cast<float>(of_four[i]));
    ddp.backward(net.loss(0));  // and the next step without one takes its whole share again
    EXPECT_THROW(ddp.finish(), UsageError);
  }));
}

TEST(Ddp, BucketsAreReducedWhileBackwardStillRuns) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    bool first_layer_done = true;
    Options options{.first_bucket_bytes = 1, .bucket_bytes = 1};
    options.comm_hook = [&](const Tensor& bucket, comm::ProcessGroup& g, const BucketSum& sum) {
      // Until the input layer's gradient exists, backward cannot be over.
      if (!net.parameters[0].has_grad()) first_layer_done = false;
      return all_reduce_hook(bucket, g, sum);
    };
    DistributedDataParallel ddp(net.parameters, {}, group, options);
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    EXPECT_FALSE(first_layer_done) << "every bucket waited for the end of backward";
  }));
}

TEST(Ddp, LayoutFollowsTheOrderInWhichGradientsBecomeFinalFromTheSecondStep) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    DistributedDataParallel ddp(net.parameters, {}, group,
                                {.first_bucket_bytes = 1, .bucket_bytes = 1});
    EXPECT_EQ(ddp.layout().front(), std::vector<size_t>{3});
    EXPECT_EQ(ddp.layout().back(), std::vector<size_t>{0});
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    const BucketLayout rebuilt = ddp.layout();
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    EXPECT_EQ(ddp.layout(), rebuilt) << "rebuilt more than once";
  }));
}

TEST(Ddp, StartsFromTheValuesOfRankZero) {
  expect_success(run_group(3, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"w", Tensor::full({4}, group->rank() + 1)}};
    const Tensor buffer = Tensor::full({2}, 10.0 * (group->rank() + 1));
    DistributedDataParallel ddp(parameters, {{"mean", buffer}}, group);
    EXPECT_EQ(parameters[0].data().to_vector<float>(), std::vector<float>(4, 1.0f));
    EXPECT_EQ(buffer.to_vector<float>(), std::vector<float>(2, 10.0f));
  }));
}

TEST(Ddp, DifferentModelsFailOnEveryRankAndNameTheDifference) {
  const auto failures = run_group(3, [&](const Group& group) {
    const Parameter same("same", Tensor::zeros({2})),
        weight("layer.weight", Tensor::zeros({group->rank() == 2 ? 5 : 4}));
    DistributedDataParallel ddp({same, weight}, {}, group);
  });
  for (const std::string& failure : failures)
    EXPECT_THAT(failure, AllOf(HasSubstr("layer.weight f32[4]"),
                               HasSubstr("rank 2 has 'parameter layer.weight f32[5]'")));
}

TEST(Ddp, DifferentNamesAndNumbersOfParametersFail) {
  const auto failures = run_group(2, [&](const Group& group) {
    std::vector<Parameter> parameters{{"a", Tensor::zeros({2})}};
    if (group->rank() == 1) parameters.push_back({"b", Tensor::zeros({2})});
    DistributedDataParallel ddp(parameters, {}, group);
  });
  for (const std::string& failure : failures)
    EXPECT_THAT(failure, AllOf(HasSubstr("nothing more"), HasSubstr("parameter b")));
}

TEST(Ddp, UnusedParametersAreNamedAndReleaseTheOtherRanks) {
  const auto failures = run_group(2, [&](const Group& group) {
    Net net;
    net.use_spare = group->rank() != 1;
    DistributedDataParallel ddp(net.parameters, {}, group);
    ddp.backward(net.loss(0));
    ddp.finish();
  });
  EXPECT_THAT(failures[1], AllOf(HasSubstr("'spare'"), HasSubstr("find_unused_parameters")));
  EXPECT_THAT(failures[0], HasSubstr("'spare'"))
      << "the rank that did nothing wrong must learn why it stopped";
}

TEST(Ddp, FindUnusedParametersCountsThemAsZero) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    net.use_spare = group->rank() == 0;
    DistributedDataParallel ddp(net.parameters, {}, group, {.find_unused_parameters = true});
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    const auto spare = net.parameters[3].data().to_vector<float>();
    const auto gradient = net.parameters[3].grad().to_vector<float>();
    for (size_t i = 0; i < spare.size(); ++i)
      EXPECT_FLOAT_EQ(gradient[i], spare[i]);  // d(w²)/dw · 1/2 from one of two ranks
  }));
}

TEST(Ddp, UnevenInputsAverageOverTheRanksThatHadInput) {
  expect_success(run_group(3, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"w", Tensor::full({1}, 1.0)}};
    DistributedDataParallel ddp(parameters, {}, group);
    std::vector<float> seen;
    const int inputs = group->rank() + 1;  // rank 0 has one batch, rank 2 three
    for (int step = 0; ddp.active_ranks(step < inputs) > 0; ++step) {
      if (step < inputs)
        ddp.backward(
            ops::sum(ops::mul(parameters[0], Variable(Tensor::full({1}, group->rank() + 1.0)))));
      else
        ddp.skip();
      ddp.finish();
      seen.push_back(parameters[0].grad().to_vector<float>()[0]);
    }
    ASSERT_EQ(seen.size(), 3u);
    EXPECT_FLOAT_EQ(seen[0], 2.0f);  // (1 + 2 + 3) / 3
    EXPECT_FLOAT_EQ(seen[1], 2.5f);  // (2 + 3) / 2
    EXPECT_FLOAT_EQ(seen[2], 3.0f);  // 3 / 1
  }));
}

TEST(Ddp, WhatWasSaidOfInputsHoldsForOneStep) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"w", Tensor::full({1}, 1.0)}};
    const auto gradient = [&] { return parameters[0].grad().to_vector<float>()[0]; };
    const auto loss = [&] {
      return ops::sum(ops::mul(parameters[0], Variable(Tensor::full({1}, 1.0))));
    };
    DistributedDataParallel ddp(parameters, {}, group);
    ASSERT_EQ(ddp.active_ranks(group->rank() == 0), 1);
    if (group->rank() == 0)
      ddp.backward(loss());
    else
      ddp.skip();
    ddp.finish();
    EXPECT_EQ(gradient(), 1.0f);
    ddp.backward(loss());  // everybody has input again, and nobody asks
    ddp.finish();
    EXPECT_EQ(gradient(), 1.0f) << "the mean of 1 and 1";
    EXPECT_EQ(ddp.active_ranks(false), 0);
    ddp.backward(loss());  // the next epoch
    ddp.finish();
    EXPECT_EQ(gradient(), 1.0f);
  }));
}

TEST(Ddp, ARankThatDoesOtherThanItSaidFailsOnAllRanks) {
  for (const bool claims : {false, true}) {
    const auto failures = run_group(2, [&](const Group& group) {
      const std::vector<Parameter> parameters{{"w", Tensor::full({1}, 1.0)}};
      DistributedDataParallel ddp(parameters, {}, group);
      ddp.active_ranks(group->rank() == 0 || claims);
      if (group->rank() == 0 || !claims)
        ddp.backward(ops::sum(parameters[0]));
      else
        ddp.skip();
      ddp.finish();
    });
    for (const std::string& failure : failures)
      EXPECT_THAT(
          failure,
          HasSubstr(
              claims ? "rank 1 told active_ranks() that it has input, but called skip()"
                     : "rank 1 told active_ranks() that it has no input, but called backward()"));
  }
}

TEST(Ddp, ActiveRanksAreAskedBetweenSteps) {
  expect_success(run_group(1, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"w", Tensor::full({1}, 1.0)}};
    DistributedDataParallel ddp(parameters, {}, group);
    ddp.backward(ops::sum(parameters[0]));
    EXPECT_THROW(ddp.active_ranks(true), UsageError);
    ddp.finish();
    EXPECT_EQ(ddp.active_ranks(true), 1);
  }));
}

TEST(Ddp, RanksMayAccumulateDifferentNumbersOfMicroBatches) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"w", Tensor::full({1}, 1.0)}};
    DistributedDataParallel ddp(parameters, {}, group);
    for (int i = 0; i < (group->rank() == 0 ? 3 : 1); ++i) {
      const auto guard = ddp.no_sync();
      ddp.backward(ops::sum(parameters[0]));
    }
    ddp.backward(ops::sum(parameters[0]));
    ddp.finish();
    EXPECT_EQ(parameters[0].grad().to_vector<float>(), std::vector<float>{3.0f})
        << "six micro-batches, each weighted 1/2";
  }));
}

TEST(Ddp, AStepsGradientsReplaceThoseOfTheStepBefore) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{{"w", Tensor::full({1}, 1.0)}};
    DistributedDataParallel ddp(parameters, {}, group);
    for (int step = 1; step <= 3; ++step) {
      ddp.backward(ops::sum(ops::mul(parameters[0], Variable(Tensor::full({1}, step)))));
      ddp.finish();
      EXPECT_EQ(parameters[0].grad().to_vector<float>()[0], static_cast<float>(step))
          << "no zero_grad() in between";
    }
  }));
}

TEST(Ddp, FinishGivesTheGradientWhateverHappenedSinceBackward) {
  expect_success(run_group(2, [&](const Group& group) {
    const Parameter zeroed("zeroed", Tensor::full({1}, 1.0)),
        dropped("dropped", Tensor::full({1}, 1.0));
    DistributedDataParallel ddp({zeroed, dropped}, {}, group);
    ddp.backward(ops::add(ops::sum(zeroed), ops::sum(dropped)));
    zeroed.zero_grad();
    dropped.set_grad_buffer({});
    ddp.finish();
    for (const Parameter& p : {zeroed, dropped}) {
      ASSERT_TRUE(p.has_grad()) << p.name();
      EXPECT_EQ(p.grad().to_vector<float>(), std::vector<float>{1.0f}) << p.name();
    }
  }));
}

TEST(Ddp, Bf16CompressionStaysWithinTwoRoundings) {
  Options options;
  options.comm_hook = bf16_compress_hook;
  const auto exact = gradients(2, 2)[0];
  const auto compressed = gradients(2, 2, options);
  EXPECT_EQ(compressed[0], compressed[1]);
  EXPECT_NE(compressed[0], exact);
  // bf16 rounds by at most 2⁻⁸ of a value: once for what each rank sends, once for the sum.
  std::vector<std::vector<uint32_t>> sent;
  for (int64_t m : {0, 1}) {
    Net net;
    net.loss(m).backward(Tensor::full({}, 0.5));
    sent.push_back(bits(net.parameters));
  }
  for (size_t i = 0; i < exact.size(); ++i) {
    const auto value = [i](const std::vector<uint32_t>& of) { return std::bit_cast<float>(of[i]); };
    const float rounded =
        std::abs(value(sent[0])) + std::abs(value(sent[1])) + std::abs(value(compressed[0]));
    EXPECT_NEAR(value(compressed[0]), value(exact), 0x1p-8f * rounded * 1.01f);
  }
}

TEST(Ddp, FrozenParametersTakeNoPart) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    net.parameters[3].set_requires_grad(false);
    net.use_spare = false;
    DistributedDataParallel ddp(net.parameters, {}, group);
    ddp.backward(net.loss(group->rank()));
    ddp.finish();
    EXPECT_FALSE(net.parameters[3].has_grad());
    EXPECT_TRUE(net.parameters[0].has_grad());
  }));
}

TEST(Ddp, ValuesThatACollectiveChangedAfterForwardAreRefusedInBackward) {
  for (const int ranks : {1, 2})
    expect_success(run_group(ranks, [](const Group& group) {
      Net net;
      const Variable loss = net.loss(0);
      for (const Parameter& p : net.parameters) group->broadcast(p.data(), 0).wait();
      EXPECT_THAT([&] { loss.backward(); },
                  ThrowsMessage<UsageError>(AllOf(HasSubstr("backward needs '"),
                                                  HasSubstr("but a collective changed it since"))));
    }));
}

TEST(Ddp, WrongUseIsSaid) {
  expect_success(run_group(1, [&](const Group& group) {
    Net net;
    DistributedDataParallel ddp(net.parameters, {}, group, {.micro_batches = 2});
    EXPECT_THROW(ddp.finish(), UsageError);
    ddp.backward(net.loss(0));
    EXPECT_THROW(ddp.finish(), UsageError);
    EXPECT_THROW(net.loss(1).backward(), UsageError);
    EXPECT_THROW(ddp.skip(), UsageError);
  }));
  expect_success(run_group(1, [&](const Group& group) {
    const std::vector<Parameter> half{{"w", Tensor::zeros({2}, DType::bf16)}};
    EXPECT_THROW(DistributedDataParallel(half, {}, group), UsageError);
  }));
}

}  // namespace
}  // namespace lockstep::ddp
