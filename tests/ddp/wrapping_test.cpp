// What may be wrapped, several wrappers, and hooks of users beside them.
#include <gmock/gmock.h>

#include "ddp/ddp.h"
#include "tests/ddp/net.h"

namespace lockstep::ddp {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

using test::bits;
using test::expect_success;
using test::Group;
using test::Net;
using test::run_group;

Parameter ones(const std::string& name) { return {name, Tensor::full({2}, 1.0)}; }

// d/dw of this is `slope`, on every rank.
Variable line(const Parameter& w, double slope) {
  return ops::sum(ops::mul(w, Variable(Tensor::full({2}, slope))));
}

TEST(DdpWrapping, TwoModelsUsedInAnotherOrderAreNotMixed) {
  for (const bool buckets_only : {true, false}) {
    const auto failures = run_group(2, [&](const Group& group) {
      const std::vector<Parameter> a{ones("w")}, b{ones("w")};
      DistributedDataParallel of_a(a, {}, group), of_b(b, {}, group);
      const auto step = [&](DistributedDataParallel& ddp, const Parameter& w) {
        if (!buckets_only) ddp.active_ranks(true);
        ddp.backward(line(w, 1));
        ddp.finish();
      };
      if (group->rank() == 0) step(of_a, a[0]);
      step(of_b, b[0]);
      if (group->rank() == 1) step(of_a, a[0]);
    });
    for (const std::string& failure : failures)
      EXPECT_THAT(failure,
                  AllOf(HasSubstr(buckets_only ? "[ddp] summing bucket 0 of 1 ('w') in step 1"
                                               : "[ddp] counting the ranks"),
                        HasSubstr("ranks called different things"), HasSubstr("label")));
  }
}

// The first finish() of each shares the order of its gradients, too.
TEST(DdpWrapping, TwoModelsFinishedInAnotherOrderAreNotMixed) {
  const auto failures = run_group(2, [&](const Group& group) {
    const std::vector<Parameter> a{ones("w")}, b{ones("w")};
    DistributedDataParallel of_a(a, {}, group), of_b(b, {}, group);
    of_a.backward(line(a[0], 1));
    of_b.backward(line(b[0], 1));
    if (group->rank() == 0) of_a.finish();
    of_b.finish();
    if (group->rank() == 1) of_a.finish();
  });
  for (const std::string& failure : failures)
    EXPECT_THAT(failure, AllOf(HasSubstr("[ddp] sharing the order"),
                               HasSubstr("ranks called different things")));
}

TEST(DdpWrapping, TwoModelsTakeTurns) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> a{ones("a")}, b{ones("b")};
    DistributedDataParallel of_a(a, {}, group), of_b(b, {}, group);
    for (int step = 0; step < 3; ++step) {
      of_a.backward(line(a[0], group->rank() + 1));
      of_b.backward(line(b[0], 10 * (group->rank() + 1)));
      of_b.finish();
      of_a.finish();
      EXPECT_THAT(a[0].grad().to_vector<float>(), Each(1.5f));
      EXPECT_THAT(b[0].grad().to_vector<float>(), Each(15.0f));
    }
  }));
}

TEST(DdpWrapping, AnotherWrapperTakesTheParametersOver) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{ones("w")};
    auto ddp = std::make_unique<DistributedDataParallel>(
        parameters, std::vector<std::pair<std::string, Tensor>>{}, group);
    for (int round = 0; round < 3; ++round) {
      ddp->backward(line(parameters[0], group->rank() + 1));
      ddp->finish();
      EXPECT_THAT(parameters[0].grad().to_vector<float>(), Each(1.5f))
          << "wrapped " << round + 1 << " times";
      ddp = std::make_unique<DistributedDataParallel>(
          parameters, std::vector<std::pair<std::string, Tensor>>{}, group);
      EXPECT_THROW(line(parameters[0], 1).backward(), UsageError) << "not through the wrapper";
    }
  }));
}

TEST(DdpWrapping, AWrapperWithoutItsParametersSaysSo) {
  const auto failures = run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{ones("w"), ones("v")};
    DistributedDataParallel first(parameters, {}, group);
    {
      DistributedDataParallel second({parameters[1]}, {}, group);
      second.backward(line(parameters[1], 1));
      second.finish();
    }
    first.backward(ops::add(line(parameters[0], 1), line(parameters[1], 2)));  // which it has again
    first.finish();
    EXPECT_THAT(parameters[1].grad().to_vector<float>(), Each(2.0f));
    DistributedDataParallel third({parameters[1]}, {}, group);
    first.backward(ops::add(line(parameters[0], 1), line(parameters[1], 1)));
  });
  for (const std::string& failure : failures) EXPECT_THAT(failure, HasSubstr("has taken over 'v'"));
}

TEST(DdpWrapping, HooksOfUsersStay) {
  for (int ranks : {1, 2})
    expect_success(run_group(ranks, [&](const Group& group) {
      const std::vector<Parameter> parameters{ones("w")};
      const Parameter& w = parameters[0];
      int before = 0, after = 0;
      const HookHandle first = w.add_grad_hook([&](const Parameter& p) {
        ++before;
        EXPECT_THAT(p.grad().to_vector<float>(),
                    Each(static_cast<float>(group->rank() + 1) / static_cast<float>(group->size())))
            << "this rank's own";
        p.grad().copy_(Tensor::full({2}, 4.0));
      });
      {
        DistributedDataParallel ddp(parameters, {}, group);
        ddp.backward(line(w, group->rank() + 1));
        ddp.finish();
        EXPECT_EQ(before, 1);
        EXPECT_THAT(w.grad().to_vector<float>(), Each(4.0f * static_cast<float>(group->size())))
            << "what the hooks made of it";

        first.remove();
        const HookHandle second = w.add_grad_hook([&](const Parameter&) { ++after; });
        ddp.backward(line(w, 1));
        ddp.finish();
        EXPECT_EQ(before, 1);
        EXPECT_EQ(after, 1);
        EXPECT_THAT(w.grad().to_vector<float>(), Each(1.0f));

        second.remove();
        ddp.backward(line(w, 1));
        ddp.finish();
        EXPECT_EQ(after, 1);
        EXPECT_THAT(w.grad().to_vector<float>(), Each(1.0f));

        w.add_grad_hook([&](const Parameter&) { ++after; });
        ddp.backward(line(w, 1));
        ddp.finish();
        DistributedDataParallel later(parameters, {}, group);
        later.backward(line(w, 1));
        later.finish();
        EXPECT_EQ(after, 3);
      }
      line(w, 1).backward();
      EXPECT_EQ(after, 4) << "after the wrappers";
    }));
}

TEST(DdpWrapping, AHookThatMovesTheGradientIsRefused) {
  const std::vector<std::function<void(const Parameter&)>> hooks{
      [](const Parameter& p) { p.zero_grad(); },
      [](const Parameter& p) {
        p.set_grad_buffer(Tensor::full({2}, 4.0));
        p.mark_grad_valid();
      }};
  for (const auto& hook : hooks)
    EXPECT_THAT(run_group(1,
                          [&](const Group& group) {
                            const std::vector<Parameter> parameters{ones("w")};
                            DistributedDataParallel ddp(parameters, {}, group);
                            parameters[0].add_grad_hook(hook);
                            ddp.backward(line(parameters[0], 1));
                          })[0],
                HasSubstr("the hook of 'w' moved or dropped its gradient"));
}

// On one rank as on two; where only rank 1 is wrong, rank 0 learns it.
TEST(DdpWrapping, WhatCannotBeWrappedIsNamed) {
  const Parameter good = ones("good");
  struct Case {
    std::vector<Parameter> parameters;
    std::vector<std::pair<std::string, Tensor>> buffers;
    std::string want;
  };
  const Tensor transposed = Tensor::full({3, 4}, 1.0).transpose(0, 1);
  const Tensor absent = Tensor::wrap(Storage::absent(16, kCpu, "elsewhere"), {4}, DType::f32);
  const std::vector<Case> cases{
      {{good, {"w", transposed}}, {}, "parameter 'w' is f32[4, 3] with strides"},
      {{good, {"w", absent}}, {}, "parameter 'w' has no values"},
      {{good, {}}, {}, "parameter 1 of the 2 listed is undefined"},
      {{good, good}, {}, "parameter 'good' is listed twice"},
      {{good, {"half", Tensor::zeros({2}, DType::bf16)}}, {}, "parameter 'half' is bf16[2]"},
      {{good}, {{"mean", transposed}}, "buffer 'mean' is f32[4, 3] with strides"},
      {{good}, {{"mean", {}}}, "buffer 'mean' has no values"}};
  for (const Case& c : cases)
    for (int ranks : {1, 2}) {
      const auto failures = run_group(ranks, [&](const Group& group) {
        if (group->rank() == ranks - 1)
          DistributedDataParallel ddp(c.parameters, c.buffers, group);
        else
          DistributedDataParallel ddp({ones("good")}, {}, group);
      });
      for (const std::string& failure : failures)
        EXPECT_THAT(failure, HasSubstr(c.want)) << ranks << " ranks";
    }
}

// A hook that takes the tree alone, as hooks did before there were labels.
TEST(DdpWrapping, ACommHookMayTakeTheTreeAlone) {
  expect_success(run_group(2, [&](const Group& group) {
    const std::vector<Parameter> parameters{ones("w")};
    Options options;
    options.comm_hook = [](const Tensor& bucket, comm::ProcessGroup& g,
                           const comm::ReduceTree& tree) {
      return all_reduce_hook(bucket, g, tree);
    };
    DistributedDataParallel ddp(parameters, {}, group, options);
    ddp.backward(line(parameters[0], group->rank() + 1));
    ddp.finish();
    EXPECT_THAT(parameters[0].grad().to_vector<float>(), Each(1.5f));
  }));
}

}  // namespace
}  // namespace lockstep::ddp
