// Ranks that repeat what others do, because they have fewer micro-batches in a step or no input:
// the others read parameters outside of their units, run passes without gradients, or forward
// passes ahead.
#include <gmock/gmock.h>

#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 24;
constexpr int kSteps = 3;

Variable input(int64_t micro) {
  return Variable(random({3, kWidth}, 1 + static_cast<uint32_t>(micro)));
}

// Five blocks and a scale. `ahead`: the root reads the last block before it runs the first.
// `inner_teacher`: and then runs two blocks without gradients.
struct Net {
  std::shared_ptr<Tree> root = std::make_shared<Tree>();
  std::vector<Parameter> weights;  // of the blocks
  Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 1.5));
  bool ahead = false, inner_teacher = false;
  std::function<void()> begin_micro_batch = [] {};

  Net() {
    const auto blocks = std::make_shared<nn::Sequential>();
    for (int i = 0; i < 5; ++i) {
      const auto linear = std::make_shared<nn::Linear>(kWidth, kWidth);
      weights.push_back(linear->weight);
      blocks->append(linear);
    }
    root->register_module("blocks", blocks);
    root->body = [this, blocks](const Variable& in) {
      Variable x = in;
      if (ahead) x = ops::cast(ops::linear(x, weights[4], {}), DType::f32);
      if (inner_teacher) {
        const NoGradGuard no_grad;
        Variable y = x;
        for (const size_t i : {3, 1}) y = ops::cast((*blocks->children()[i].second)(y), DType::f32);
        x = ops::add(x, y.detach());
      }
      return ops::tanh(ops::cast((*blocks)(x), DType::f32));
    };
    root->initialize(3);
  }
  Variable operator()(int64_t micro) const { return ops::mul((*root)(input(micro)), scale); }
  Variable loss(int64_t micro) const { return ops::mean(ops::square((*this)(micro))); }
  Variable teacher(int64_t micro) const {
    const NoGradGuard no_grad;
    return (*this)(micro + 50).detach();
  }
};

// What a rank does for its micro-batches of a step, up to each backward().
struct Program {
  std::string name;
  std::function<void(Net&)> prepare;
  // `backward` is called once for each of `micros`.
  std::function<void(const Net&, const std::vector<int64_t>& micros,
                     const std::function<void(const Variable&)>& backward)>
      run;
};

Program each(
    const std::string& name, const std::function<Variable(const Net&, int64_t micro)>& loss,
    const std::function<void(Net&)>& prepare = [](Net&) {}) {
  return {name, prepare,
          [loss](const Net& net, const std::vector<int64_t>& micros,
                 const std::function<void(const Variable&)>& backward) {
            for (const int64_t micro : micros) backward(loss(net, micro));
          }};
}

std::vector<Program> programs() {
  const auto plain = [](const Net& net, int64_t micro) { return net.loss(micro); };
  return {each("a read before the blocks run", plain, [](Net& net) { net.ahead = true; }),
          each("a pass without gradients within the forward pass", plain,
               [](Net& net) { net.inner_teacher = true; }),
          each("a teacher after the forward pass",
               [](const Net& net, int64_t micro) {
                 const Variable out = net(micro);
                 return ops::mean(ops::square(ops::add(out, net.teacher(micro))));
               }),
          each("a teacher before the forward pass, which is announced",
               [](const Net& net, int64_t micro) {
                 net.begin_micro_batch();
                 const Variable want = net.teacher(micro);
                 return ops::mean(ops::square(ops::add(net(micro), want)));
               }),
          each("a teacher with gradients, which is detached",
               [](const Net& net, int64_t micro) {
                 const Variable out = net(micro);
                 return ops::mean(ops::square(ops::add(out, net(micro + 50).detach())));
               }),
          each("a model of which all is detached but what the loss reads",
               [](const Net& net, int64_t micro) {
                 Variable loss = ops::mean(ops::mul((*net.root)(input(micro)).detach(), net.scale));
                 for (const Parameter& p : net.root->parameters())
                   loss = ops::add(loss, ops::mean(ops::square(p)));
                 return loss;
               }),
          each("reads by the loss, also after a teacher", [](const Net& net, int64_t micro) {
            Variable loss = net.loss(micro);
            loss = ops::add(loss, ops::mean(ops::square(net.weights[4])));
            loss = ops::add(loss, ops::mean(net.teacher(micro)));
            return ops::add(loss, ops::mean(ops::square(ops::add(net.weights[1], net.weights[3]))));
          })};
}

Program teacher_first() {
  return each("a teacher before the forward pass", [](const Net& net, int64_t micro) {
    const Variable want = net.teacher(micro);
    return ops::mean(ops::square(ops::add(net(micro), want)));
  });
}

Program passes_ahead() {
  return {"forward passes ahead", [](Net&) {},
          [](const Net& net, const std::vector<int64_t>& micros,
             const std::function<void(const Variable&)>& backward) {
            std::vector<Variable> losses;
            for (const int64_t micro : micros) losses.push_back(net.loss(micro));
            for (const Variable& loss : losses) backward(loss);
          }};
}

void update(const std::vector<Parameter>& parameters) {
  for (const Parameter& p : parameters) {
    const Tensor change = p.grad().clone();
    kernels(kCpu).axpby(current_queue(kCpu), DType::f32, change.numel(), -0.5f, change.raw(), 1.0f,
                        p.data().raw());
    p.data().mark_changed("the update");
    p.zero_grad();
  }
}

Bits whole(FullyShardedDataParallel& sharded, int rank, const Net& net) {
  Bits all;
  sharded.for_each_whole([&](const std::string& name, const Tensor& values) {
    if (rank == 0) all[name] = bits(values);
  });
  EXPECT_TRUE(rank > 0 || all.size() == net.root->parameters().size());
  return all;
}

struct Outcome {
  std::vector<std::string> failures;
  Bits weights;
};

// Some steps; in each second one all ranks evaluate first, with and without gradients, so that
// units are whole when it begins.
Outcome train(const Program& program, int ranks, int64_t micro_batches, Options options) {
  Outcome outcome;
  outcome.failures = run_group(ranks, [&](const Group& group) {
    Net net;
    program.prepare(net);
    Options own = options;
    own.micro_batches = micro_batches;
    const auto sharded = fully_shard(net.root, group, own);
    net.begin_micro_batch = [&] { sharded->begin_micro_batch(); };
    for (int step = 0; step < kSteps; ++step) {
      {
        ops::PrecisionScope precision(options.compute);
        if (step % 2 == 1) {
          net.loss(0);
          net.teacher(0);
        }
        std::vector<int64_t> micros;
        for (const int64_t leaf : sharded->leaves()) micros.push_back(leaf + step * micro_batches);
        program.run(net, micros, [&](const Variable& loss) { sharded->backward(loss); });
        sharded->finish();
      }
      update(sharded->parameters());
    }
    const Bits all = whole(*sharded, group->rank(), net);
    if (group->rank() == 0) outcome.weights = all;
  });
  return outcome;
}

const Options kModes[] = {{.units_in_flight = 1},
                          {},
                          {.units_in_flight = 4},
                          {.reshard = Reshard::after_step},
                          {.accumulate = Accumulate::in_full},
                          {.nearby = 1},
                          {.compute = DType::bf16}};

TEST(Repeat, RanksWithFewerMicroBatchesDoWhatTheOthersDo) {
  for (const Program& program : programs())
    for (const auto& [ranks, micro_batches] :
         {std::pair{2, 3}, {2, 5}, {3, 4}, {3, 8}, {4, 5}, {4, 7}}) {
      for (const Options& options : kModes) {
        const Outcome want = train(program, 1, micro_batches, {.compute = options.compute});
        const Outcome got = train(program, ranks, micro_batches, options);
        expect_success(got.failures);
        EXPECT_EQ(got.weights, want.weights) << program.name << ", " << ranks << " ranks, V "
                                             << micro_batches << ", mode " << &options - kModes;
      }
    }
}

// Each rank has two micro-batches, of which the second shows where the teacher comes.
TEST(Repeat, ATeacherMayComeBeforeTheForwardPass) {
  for (const auto& [ranks, micro_batches] : {std::pair{2, 7}, {3, 7}, {4, 15}}) {
    for (const Options& options : kModes) {
      const Outcome want = train(teacher_first(), 1, micro_batches, {.compute = options.compute});
      const Outcome got = train(teacher_first(), ranks, micro_batches, options);
      expect_success(got.failures);
      EXPECT_EQ(got.weights, want.weights)
          << ranks << " ranks, V " << micro_batches << ", mode " << &options - kModes;
    }
  }
}

// Where nothing is gathered a second time, ranks need not run their passes in the same order.
TEST(Repeat, ForwardPassesMayRunAheadWhereUnitsStay) {
  for (const auto& [ranks, micro_batches] : {std::pair{2, 3}, {2, 5}, {3, 4}, {4, 7}}) {
    const Outcome want = train(passes_ahead(), 1, micro_batches, {});
    expect_success(want.failures);
    for (const Options& options :
         {Options{.reshard = Reshard::after_step}, Options{.units_in_flight = 5}}) {
      const Outcome got = train(passes_ahead(), ranks, micro_batches, options);
      expect_success(got.failures);
      EXPECT_EQ(got.weights, want.weights) << ranks << " ranks, V " << micro_batches;
    }
  }
}

// A rank cannot know what others do before it has done it itself.
TEST(Repeat, WhatCannotBeRepeatedIsNamedOnAllRanks) {
  const auto named =
      Each(AllOf(HasSubstr("unit '"), HasSubstr("called different things"), HasSubstr("label")));
  EXPECT_THAT(train(passes_ahead(), 2, 3, {.units_in_flight = 1}).failures, named);
  EXPECT_THAT(train(passes_ahead(), 3, 4, {.units_in_flight = 1}).failures, named);
  EXPECT_THAT(train(teacher_first(), 2, 3, {.units_in_flight = 1}).failures, named);
}

// One micro-batch a rank and step; after the first one only the first rank has input.
Bits train_uneven(const Program& program, int ranks, const Options& options, bool with_ddp) {
  Bits weights;
  expect_success(run_group(ranks, [&](const Group& group) {
    Net net;
    program.prepare(net);
    std::unique_ptr<ddp::DistributedDataParallel> ddp;
    std::unique_ptr<FullyShardedDataParallel> sharded;
    if (with_ddp)
      ddp = std::make_unique<ddp::DistributedDataParallel>(net.root->parameters(),
                                                           net.root->buffers(), group);
    else
      sharded = fully_shard(net.root, group, options);
    if (sharded) net.begin_micro_batch = [&] { sharded->begin_micro_batch(); };
    const auto step = [&](auto& parallel, int64_t number) {
      const bool have = group->rank() == 0 || number % 2 == 0;
      ASSERT_GT(parallel.active_ranks(have), 0);
      ops::PrecisionScope precision(options.compute);
      if (number == 0 || number == 3) net.teacher(0);
      if (have)
        program.run(net, {number * ranks + group->rank()},
                    [&](const Variable& loss) { parallel.backward(loss); });
      else
        parallel.skip();
      parallel.finish();
    };
    for (int number = 0; number < 4; ++number) {
      with_ddp ? step(*ddp, number) : step(*sharded, number);
      update(with_ddp ? net.root->parameters() : sharded->parameters());
    }
    if (with_ddp && group->rank() == 0)
      for (const Parameter& p : net.root->parameters()) weights[p.name()] = bits(p.data());
    if (!with_ddp) {
      const Bits all = whole(*sharded, group->rank(), net);
      if (group->rank() == 0) weights = all;
    }
  }));
  return weights;
}

TEST(Repeat, RanksWithoutInputDoWhatTheOthersDo) {
  for (const Program& program : programs())
    for (const int ranks : {2, 3, 4}) {
      for (const Options& options : kModes)
        EXPECT_EQ(train_uneven(program, ranks, options, false),
                  train_uneven(program, ranks, options, true))
            << program.name << ", " << ranks << " ranks, mode " << &options - kModes;
    }
}

}  // namespace
}  // namespace lockstep::fsdp
