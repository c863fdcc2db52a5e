// Steps in which backward() throws.
#include <future>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
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
using test::random;
using test::run_group;

// The gradient of `last` is final before the fault, that of `first` after it.
struct Model {
  std::vector<Parameter> parameters{{"first", random({4, 4}, 1)}, {"last", random({4, 4}, 2)}};
  bool faulty = false;

  Variable loss(int64_t micro) {
    Variable h = ops::linear(Variable(random({3, 4}, 100 + static_cast<uint32_t>(micro))),
                             parameters[0], {});
    h = record("fault", h.data(), {h}, [this](const Tensor& gradient, const Node& node) {
      if (std::exchange(faulty, false)) throw EnvironmentError("a transient fault");
      node.edge(0).add(gradient);
    });
    return ops::sum(ops::square(ops::linear(h, parameters[1], {})));
  }
};

struct Fault {
  int64_t micro;  // of each rank's share; -1: its last
  int rank = -1;  // -1: all
};

constexpr int64_t kMicroBatches = 6;

// Runs three steps, with faults in the second, and tries again what threw.
void train(const Group& group, const Options& options, const std::vector<Fault>& faults,
           const std::function<void(const Model&)>& after_step,
           const std::function<void()>& between_tries = {}) {
  Model model;
  DistributedDataParallel ddp(model.parameters, {}, group, options);
  const int64_t first = ddp.tree().begin(group->rank()),
                share = ddp.tree().begin(group->rank() + 1) - first;
  for (int step = 0; step < 3; ++step) {
    for (int64_t i = 0; i < share; ++i) {
      const int64_t micro = step * ddp.tree().leaves() + first + i;
      for (const Fault& fault : faults) {
        if (step != 1 || (fault.micro != i && fault.micro != i - share) ||
            (fault.rank >= 0 && fault.rank != group->rank()))
          continue;
        model.faulty = true;
        EXPECT_THROW(ddp.backward(model.loss(micro)), EnvironmentError);
        for (const Parameter& p : model.parameters)
          EXPECT_FALSE(p.has_grad()) << p.name() << " kept something of what threw";
        if (between_tries) between_tries();
      }
      ddp.backward(model.loss(micro));
    }
    ddp.finish();
    after_step(model);
  }
}

std::vector<uint32_t> gradients(int ranks, const Options& options,
                                const std::vector<Fault>& faults) {
  std::vector<std::vector<uint32_t>> seen(static_cast<size_t>(ranks));
  expect_success(run_group(ranks, [&](const Group& group) {
    train(group, options, faults, [&](const Model& model) {
      for (const uint32_t b : bits(model.parameters))
        seen[static_cast<size_t>(group->rank())].push_back(b);
    });
  }));
  EXPECT_THAT(seen, Each(seen[0]));
  return seen[0];
}

TEST(DdpRetry, AStepThatThrewOnAllRanksHasTheBitsOfOneThatDidNot) {
  for (int64_t bytes : {1, 1 << 20})
    for (int ranks : {1, 2, 3}) {
      const Options options{
          .micro_batches = kMicroBatches, .first_bucket_bytes = bytes, .bucket_bytes = bytes};
      const auto want = gradients(ranks, options, {});
      ASSERT_EQ(want.size(), 3u * 32);
      EXPECT_EQ(gradients(ranks, options, {{0}}), want) << ranks << " ranks";
      EXPECT_EQ(gradients(ranks, options, {{-1}}), want) << ranks << " ranks";
      EXPECT_EQ(gradients(ranks, options, {{0}, {-2}, {-1}, {-1}}), want)
          << ranks << " ranks, again and again";
    }
}

// Nothing is sent before the last micro-batch of a share; rank 0 has four of them, and rank 1 two.
TEST(DdpRetry, OneRankMayTryAgainAloneWhatItHasNotSent) {
  const Options options{.micro_batches = kMicroBatches, .first_bucket_bytes = 1, .bucket_bytes = 1};
  EXPECT_EQ(gradients(2, options, {{0, 1}, {0, 1}, {0, 0}, {2, 0}}), gradients(2, options, {}));
}

// Rank 1 throws and returns while rank 0 has not even begun; what rank 1 sent meanwhile waits for
// rank 0.
TEST(DdpRetry, MemoryOnItsWayIsNotWrittenTo) {
  const Options plain{.first_bucket_bytes = 1, .bucket_bytes = 1};
  const auto want = gradients(2, plain, {});
  std::promise<void> threw;
  std::vector<std::vector<uint32_t>> seen(2);
  expect_success(run_group(2, [&](const Group& group) {
    Options options = plain;
    std::vector<comm::Work> started;
    options.comm_hook = [&](const Tensor& bucket, comm::ProcessGroup& g, const BucketSum& sum) {
      PendingReduction reduction = all_reduce_hook(bucket, g, sum);
      started.push_back(reduction.work);
      return reduction;
    };
    Model model;
    DistributedDataParallel ddp(model.parameters, {}, group, options);
    ddp.backward(model.loss(group->rank()));
    ddp.finish();
    started.clear();
    model.parameters[0].add_grad_hook([&](const Parameter&) {});
    model.parameters[1].add_grad_hook([&](const Parameter&) {
      for (const comm::Work& work : started)
        EXPECT_TRUE(work.done()) << "its memory holds a new gradient already";
    });
    if (group->rank() == 0) threw.get_future().wait();
    model.faulty = true;
    EXPECT_THROW(ddp.backward(model.loss(2 + group->rank())), EnvironmentError);
    const Variable loss = model.loss(2 + group->rank());
    if (group->rank() == 1) threw.set_value();
    ddp.backward(loss);
    ddp.finish();
    for (int step = 1; step < 3; ++step) {
      if (step > 1) {
        ddp.backward(model.loss(2 * step + group->rank()));
        ddp.finish();
      }
      for (const uint32_t b : bits(model.parameters))
        seen[static_cast<size_t>(group->rank())].push_back(b);
    }
  }));
  for (const auto& rank : seen)
    EXPECT_EQ(rank, std::vector<uint32_t>(want.begin() + 32, want.end()));
}

// The others have got what the rank sent before it threw. Its next try must meet none of their
// later calls.
TEST(DdpRetry, WhereOneRankThrewNoRankGoesOn) {
  for (int64_t bytes : {1, 1 << 20})
    for (int ranks : {2, 3}) {
      std::vector<int> steps(static_cast<size_t>(ranks));
      const auto failures = run_group(ranks, [&](const Group& group) {
        Options options{.first_bucket_bytes = bytes, .bucket_bytes = bytes};
        // All buckets go before the fault.
        Model model;
        const std::vector<Parameter> wrapped =
            bytes == 1 ? model.parameters : std::vector<Parameter>{model.parameters[1]};
        DistributedDataParallel ddp(wrapped, {}, group, options);
        for (int step = 0; step < 5; ++step) {
          if (step == 1 && group->rank() == 1) {
            model.faulty = true;
            EXPECT_THROW(ddp.backward(model.loss(0)), EnvironmentError);
          }
          ddp.backward(model.loss(0));
          ddp.finish();
          ++steps[static_cast<size_t>(group->rank())];
        }
      });
      for (const std::string& failure : failures)
        EXPECT_THAT(failure,
                    AllOf(HasSubstr("[ddp] summing bucket"),
                          HasSubstr("ranks called different things"), HasSubstr("rank 1")));
      EXPECT_THAT(failures[1], HasSubstr("('last') in step 2"));
      EXPECT_EQ(steps[1], 1) << "the rank that threw took another step's gradients for its own";
    }
}

TEST(DdpRetry, ACommHookThatThrowsMayBeTriedAgain) {
  for (int failing : {0, 1}) {
    std::vector<std::vector<uint32_t>> seen;
    for (const bool fails : {false, true})
      expect_success(run_group(2, [&](const Group& group) {
        Model model;
        Options options{.first_bucket_bytes = 1, .bucket_bytes = 1};
        int calls = 0;
        options.comm_hook = [&](const Tensor& bucket, comm::ProcessGroup& g, const BucketSum& sum) {
          if (calls++ == failing && fails) throw std::runtime_error("the hook");
          return all_reduce_hook(bucket, g, sum);
        };
        DistributedDataParallel ddp(model.parameters, {}, group, options);
        if (fails) {
          EXPECT_THROW(ddp.backward(model.loss(group->rank())), std::runtime_error);
          EXPECT_THROW(ddp.finish(), UsageError);
        }
        ddp.backward(model.loss(group->rank()));
        ddp.finish();
        if (group->rank() == 0) seen.push_back(bits(model.parameters));
      }));
    EXPECT_EQ(seen[0], seen[1]);
  }
}

// Zeros stand for the gradients of parameters that a micro-batch did not use. They must go with it.
TEST(DdpRetry, ZerosForUnusedParametersGoWithWhatThrew) {
  expect_success(run_group(2, [&](const Group& group) {
    Model model;
    std::vector<Parameter> parameters = model.parameters;
    parameters.emplace_back("unused", random({4}, 3));
    bool hook_fails = false;
    Options options{.first_bucket_bytes = 1, .bucket_bytes = 1, .find_unused_parameters = true};
    options.comm_hook = [&](const Tensor& bucket, comm::ProcessGroup& g, const BucketSum& sum) {
      if (std::exchange(hook_fails, false)) throw std::runtime_error("the hook");
      return all_reduce_hook(bucket, g, sum);
    };
    DistributedDataParallel ddp(parameters, {}, group, options);
    hook_fails = true;
    EXPECT_THROW(ddp.backward(model.loss(group->rank())), std::runtime_error);
    for (const Parameter& p : parameters)
      EXPECT_FALSE(p.has_grad()) << p.name() << " after backward()";
    ddp.backward(model.loss(group->rank()));
    ddp.finish();
    for (const Parameter& p : parameters) p.zero_grad();
    const bool has_input = group->rank() == 0;
    ddp.active_ranks(has_input);
    const auto micro_batch = [&] { has_input ? ddp.backward(model.loss(2)) : ddp.skip(); };
    hook_fails = true;
    EXPECT_THROW(micro_batch(), std::runtime_error);
    for (const Parameter& p : parameters)
      EXPECT_FALSE(p.has_grad()) << p.name() << " on rank " << group->rank();
    micro_batch();
    ddp.finish();
    EXPECT_THAT(parameters[2].grad().to_vector<float>(), Each(0.0f));
  }));
}

TEST(DdpRetry, FinishGoesOnWhereItThrew) {
  expect_success(run_group(2, [&](const Group& group) {
    Model model;
    Options options{.first_bucket_bytes = 1, .bucket_bytes = 1};
    int finishes = 0;
    options.comm_hook = [&](const Tensor& bucket, comm::ProcessGroup& g, const BucketSum& sum) {
      PendingReduction reduction = all_reduce_hook(bucket, g, sum);
      reduction.finish = [&, bucket] {
        if (finishes++ == 1) throw std::runtime_error("the second bucket, at first");
        bucket.copy_(Tensor::full(bucket.shape(), finishes));
      };
      return reduction;
    };
    DistributedDataParallel ddp(model.parameters, {}, group, options);
    ddp.backward(model.loss(group->rank()));
    EXPECT_THROW(ddp.finish(), std::runtime_error);
    EXPECT_THROW(ddp.backward(model.loss(group->rank())), UsageError);
    ddp.finish();
    EXPECT_THAT(model.parameters[1].grad().to_vector<float>(), Each(1.0f)) << "finished once";
    EXPECT_THAT(model.parameters[0].grad().to_vector<float>(), Each(3.0f));
  }));
}

TEST(DdpRetry, AFaultUnderAGuardLeavesNoGuardBehind) {
  expect_success(run_group(1, [&](const Group& group) {
    Model model;
    DistributedDataParallel ddp(model.parameters, {}, group, {.micro_batches = 2});
    {
      const auto guard = ddp.no_sync();
      model.faulty = true;
      EXPECT_THROW(ddp.backward(model.loss(0)), EnvironmentError);
    }
    ddp.backward(model.loss(0));
    EXPECT_THROW(ddp.finish(), UsageError) << "half of the share is still to come";
    ddp.backward(model.loss(1));
    ddp.finish();
  }));
}

}  // namespace
}  // namespace lockstep::ddp
