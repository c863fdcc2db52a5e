// Steps that do not go as planned: ranks without input, passes that end in an exception, models
// that are sharded twice.
#include <atomic>

#include <gmock/gmock.h>

#include "core/autograd/node.h"
#include "core/device/allocator.h"
#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 40;
constexpr int kBlocks = 4;

// Where the next pass through the third block is to fail.
enum class Fault { none, forward, backward };

struct Chain {
  std::shared_ptr<Tree> root;
  std::vector<Parameter> weights;  // of the blocks
  std::shared_ptr<Fault> fault = std::make_shared<Fault>(Fault::none);
  std::function<Variable(int64_t)> loss;
};

Variable pass_or_fail(const Variable& x, const std::shared_ptr<Fault>& fault) {
  if (*fault == Fault::forward) throw EnvironmentError("no more data");
  return record("faulty", x.data(), {x}, [fault](const Tensor& gradient, const Node& node) {
    if (*fault == Fault::backward) throw EnvironmentError("no more data");
    node.edge(0).add(gradient);
  });
}

Chain make_chain() {
  Chain chain;
  chain.root = std::make_shared<Tree>();
  const Parameter scale = chain.root->register_parameter("scale", Tensor::full({kWidth}, 1.0));
  const auto blocks = std::make_shared<nn::Sequential>();
  for (int i = 0; i < kBlocks; ++i) {
    const auto block = std::make_shared<Tree>();
    const auto linear =
        block->register_module("linear", std::make_shared<nn::Linear>(kWidth, kWidth));
    block->body = [=, fault = chain.fault](const Variable& x) {
      const Variable y = ops::add(x, (*linear)(x));
      return i == 2 ? pass_or_fail(y, fault) : y;
    };
    chain.weights.push_back(linear->weight);
    blocks->append(block);
  }
  chain.root->register_module("blocks", blocks);
  chain.root->body = [=](const Variable& x) { return ops::mul((*blocks)(x), scale); };
  chain.root->initialize(1);
  chain.loss = [root = chain.root](int64_t micro) {
    return ops::mean(
        ops::square((*root)(Variable(random({3, kWidth}, static_cast<uint32_t>(micro))))));
  };
  return chain;
}

struct Mode {
  const char* name;
  int ranks, rows = 1;
  Options options = {};
};

std::vector<Mode> modes() {
  return {{"one rank", 1},
          {"by round", 2},
          {"odd", 3},
          {"after the step", 2, 1, {.reshard = Reshard::after_step}},
          {"in full", 4, 1, {.accumulate = Accumulate::in_full}},
          {"rows of one", 2, 2},
          {"rows", 4, 2},
          {"nearby", 4, 1, {.nearby = 2}}};
}

std::unique_ptr<FullyShardedDataParallel> shard(const Chain& chain, const Mode& mode,
                                                const Group& group, Options options) {
  return fully_shard(
      chain.root,
      comm::DeviceMesh(group, {{"replicate", mode.rows}, {"shard", mode.ranks / mode.rows}}),
      options);
}

template <typename Parallel>
void plain_step(Parallel& parallel, bool have, const Chain& chain, int step, int rank) {
  ASSERT_GT(parallel.active_ranks(have), 0);
  if (have)
    parallel.backward(chain.loss(step * 10 + rank));
  else
    parallel.skip();
  parallel.finish();
  for (const Parameter& p : parallel.parameters()) {
    const Tensor change = p.grad().clone();
    kernels(kCpu).axpby(current_queue(kCpu), DType::f32, change.numel(), -0.5f, change.raw(), 1.0f,
                        p.data().raw());
    p.zero_grad();
  }
}

// The unit has two sections, and there is no memory for the second one.
TEST(Interrupted, AGatherThatFoundNoMemoryIsRepeated) {
  expect_success(run_group(2, [](const Group& group) {
    const auto root = std::make_shared<Tree>();
    const Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 2.0));
    const Parameter shift = root->register_parameter("shift", Tensor::full({kWidth}, 3.0));
    shift.set_requires_grad(false);
    root->body = [=](const Variable& x) { return ops::add(ops::mul(x, scale), shift); };
    const auto parallel = fully_shard(root, group);
    const Variable ones(Tensor::full({kWidth}, 1.0));
    {
      int made = 0;
      const StorageScope full([&](size_t bytes) {
        if (++made == 2) throw EnvironmentError("no memory");
        return std::make_shared<Storage>(bytes, kCpu);
      });
      EXPECT_THROW((*root)(ones), EnvironmentError);
    }
    EXPECT_THAT((*root)(ones).data().to_vector<float>(), Each(5.0f));
  }));
}

// Rank r has input for the first steps only: the more, the lower its number.
constexpr int kUnevenSteps = 3;
bool has_input(int rank, int step) { return rank == 0 || step == 0; }

TEST(Interrupted, RanksWithoutInputAddNothing) {
  for (const Mode& mode : modes()) {
    Bits want, got;
    expect_success(run_group(mode.ranks, [&](const Group& group) {
      const Chain chain = make_chain();
      struct Ddp : ddp::DistributedDataParallel {
        using DistributedDataParallel::DistributedDataParallel;
        std::vector<Parameter> own;
        const std::vector<Parameter>& parameters() const { return own; }
      };
      Ddp ddp(chain.root->parameters(), {}, group, {});
      ddp.own = chain.root->parameters();
      for (int step = 0; step < kUnevenSteps; ++step)
        plain_step(ddp, has_input(group->rank(), step), chain, step, group->rank());
      if (group->rank() == 0)
        for (const Parameter& p : ddp.own) want[p.name()] = bits(p.data());
    }));
    expect_success(run_group(mode.ranks, [&](const Group& group) {
      const Chain chain = make_chain();
      const auto sharded = shard(chain, mode, group, mode.options);
      for (int step = 0; step < kUnevenSteps; ++step)
        plain_step(*sharded, has_input(group->rank(), step), chain, step, group->rank());
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) got[name] = bits(whole);
      });
    }));
    EXPECT_EQ(got, want) << mode.name;
  }
}

// Micro-batches that end in an exception on all ranks alike, and are tried again.
Bits train_with(const Mode& mode, Fault fault) {
  Bits result;
  expect_success(run_group(mode.ranks, [&](const Group& group) {
    const Chain chain = make_chain();
    Options options = mode.options;
    options.micro_batches =
        mode.ranks == 3
            ? 3
            : 4 * mode.ranks;  // equal shares, so that all ranks fail in the same micro-batches
    options.units_in_flight = 1;
    const auto sharded = shard(chain, mode, group, options);
    for (int step = 0; step < 2; ++step) {
      for (const int64_t leaf : sharded->leaves()) {
        if (fault != Fault::none) {
          *chain.fault = fault;
          EXPECT_THROW(sharded->backward(chain.loss(leaf)), EnvironmentError);
          *chain.fault = Fault::none;
          EXPECT_THROW(chain.loss(leaf).backward(), UsageError) << "a pass that failed is over";
        }
        sharded->backward(chain.loss(leaf));
      }
      sharded->finish();
      for (const Parameter& p : sharded->parameters()) {
        kernels(kCpu).axpby(current_queue(kCpu), DType::f32, p.data().numel(), -0.5f,
                            p.grad().clone().raw(), 1.0f, p.data().raw());
        p.zero_grad();
      }
    }
    sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
      if (group->rank() == 0) result[name] = bits(whole);
    });
    // What the pass that failed had gathered is not there for ever.
    if (mode.options.reshard == Reshard::after_forward && mode.ranks > mode.rows) {
      const NoGradGuard no_grad;
      chain.loss(0);
      EXPECT_THROW(chain.weights[0].data().to_vector<float>(), UsageError) << mode.name;
    }
  }));
  return result;
}

TEST(Interrupted, APassThatThrewCanBeRepeated) {
  for (const Mode& mode : modes()) {
    const Bits want = train_with(mode, Fault::none);
    EXPECT_EQ(train_with(mode, Fault::forward), want) << mode.name;
    EXPECT_EQ(train_with(mode, Fault::backward), want) << mode.name;
  }
}

// The others have used what the rank sent before it threw, and must not take what it sends again
// for the next round.
TEST(Interrupted, ARoundThatOneRankTriesAgainAloneEndsOnAllRanks) {
  for (const int rows : {1, 2}) {
    int finished = 0;  // steps of rank 0
    const auto failures = run_group(2, [&](const Group& group) {
      const auto fault = std::make_shared<Fault>(Fault::none);
      const auto linear = std::make_shared<nn::Linear>(kWidth, kWidth);
      const auto loss = [&] {  // the fault comes when all gradients are on their way
        return ops::mean(
            ops::square((*linear)(pass_or_fail(Variable(random({3, kWidth}, 1), true), fault))));
      };
      const comm::DeviceMesh mesh(group, {{"replicate", rows}, {"shard", 2 / rows}});
      const auto sharded =
          fully_shard(linear, mesh, {.micro_batches = 4, .reshard = Reshard::after_step});
      for (int step = 0; step < 4; ++step) {
        for (int round = 0; round < 2; ++round) {
          if (step == 1 && round + 1 == rows && group->rank() == 1) {
            *fault = Fault::backward;
            EXPECT_THROW(sharded->backward(loss()), EnvironmentError);
            *fault = Fault::none;
          }
          sharded->backward(loss());
        }
        sharded->finish();
        if (group->rank() == 0) ++finished;
      }
    });
    EXPECT_THAT(failures, Each(AllOf(HasSubstr("unit 'root'"), HasSubstr("called different things"),
                                     HasSubstr("label"))))
        << rows;
    EXPECT_EQ(finished, rows) << "of which the last had the right sums";
  }
}

// A rank whose share of the micro-batches is smaller takes no more memory for it, and neither does
// one that tries again.
void takes_what_the_plan_says(int ranks) {
  std::atomic<int64_t> planned = 0;
  const auto now = [] {
    return allocator(kCpu).stats().used_bytes[static_cast<size_t>(MemoryCategory::gradients)];
  };
  const int64_t before = now();
  int64_t taken = 0;
  expect_success(run_group(ranks, [&](const Group& group) {
    const Chain chain = make_chain();
    const auto sharded = fully_shard(chain.root, group, {.micro_batches = 4});
    planned += sharded->memory_plan().gradients;
    for (int attempt = 0; attempt < 4; ++attempt) {
      *chain.fault = Fault::backward;
      EXPECT_THROW(sharded->backward(chain.loss(0)), EnvironmentError);
    }
    *chain.fault = Fault::none;
    for (const int64_t leaf : sharded->leaves()) sharded->backward(chain.loss(leaf));
    sharded->finish();
    group->barrier().wait();
    if (group->rank() == 0) taken = now() - before;
    group->barrier().wait();
  }));
  EXPECT_LE(taken, planned + planned / 20) << ranks << " ranks";
}

TEST(Interrupted, GradientsTakeWhatThePlanSays) {
  for (const int ranks : {2, 3}) takes_what_the_plan_says(ranks);
}

}  // namespace
}  // namespace lockstep::fsdp
