// Values that change between forward and backward: a backward pass that gathers again must not go
// on with other ones than forward saw.
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

struct Mode {
  std::string name;
  int ranks, rows = 1;
  Options options = {};
  bool recomputes = false;
};

std::vector<Mode> modes() {
  return {{"one rank", 1},
          {"one rank, recomputed", 1, 1, {}, true},
          {"full", 2, 1, {.units_in_flight = 1}},
          {"two in flight", 2},
          {"full, recomputed", 3, 1, {.units_in_flight = 1}, true},
          {"all in flight", 2, 1, {.units_in_flight = 3}},
          {"after the step", 2, 1, {.reshard = Reshard::after_step}},
          {"in full", 2, 1, {.accumulate = Accumulate::in_full}},
          {"rows of one", 2, 2},
          {"rows", 4, 2, {.units_in_flight = 1}},
          {"nearby", 4, 1, {.nearby = 2}},
          {"bf16",
           2,
           1,
           {.low_precision = [](const Parameter& p) { return p.data().dim() == 2; },
            .compute = DType::bf16}}};
}

struct Net {
  std::shared_ptr<Tree> root = std::make_shared<Tree>();
  std::unique_ptr<FullyShardedDataParallel> sharded;
  std::vector<Parameter> parameters;
  std::function<void()> in_forward;  // runs within the second block
  DType compute;

  Net(const Group& group, const Mode& mode) : compute(mode.options.compute) {
    const auto blocks = std::make_shared<nn::Sequential>();
    for (int i = 0; i < 3; ++i) {
      const auto block = std::make_shared<Tree>();
      const auto linear =
          block->register_module("linear", std::make_shared<nn::Linear>(kWidth, kWidth));
      block->body = [this, i, linear](const Variable& x) {
        const Variable y = (*linear)(x);
        if (i == 1 && in_forward) in_forward();
        return y;
      };
      block->set_recompute(mode.recomputes);
      blocks->append(block);
    }
    root->register_module("blocks", blocks);
    root->body = [blocks](const Variable& x) { return ops::cast((*blocks)(x), DType::f32); };
    root->initialize(1);
    parameters = root->parameters();
    Options options = mode.options;
    options.micro_batches = 2 * group->size();
    sharded = fully_shard(
        root,
        comm::DeviceMesh(group, {{"replicate", mode.rows}, {"shard", mode.ranks / mode.rows}}),
        options);
  }

  Variable output() const {
    ops::PrecisionScope precision(compute);
    return (*root)(Variable(random({2, kWidth}, 5)));
  }
  Variable loss() const { return ops::mean(ops::square(output())); }
  void backward(const Variable& loss) const {
    ops::PrecisionScope precision(compute);
    sharded->backward(loss);
  }
  void step() const {
    for (int micro = 0; micro < 2; ++micro) backward(this->loss());
    sharded->finish();
  }
  // This rank's part of the parameter, or nothing.
  Tensor slice(const std::string& name) const {
    for (const auto& slice : sharded->slices())
      if (slice.name == name) return slice.values;
    return {};
  }
};

Net plain(const Group& group) { return {group, {"", group->size()}}; }

// When something is changed in the second step.
enum class Moment { before_backward, between_micro_batches, between_passes_ahead, before_finish };

void step_with(const Net& net, Moment moment, const std::function<void()>& change) {
  const auto at = [&](Moment now) {
    if (now == moment) change();
  };
  const Variable first = net.loss();
  if (moment == Moment::between_passes_ahead) {
    change();
    net.loss();
  }
  at(Moment::before_backward);
  net.backward(first);
  at(Moment::between_micro_batches);
  net.backward(net.loss());
  at(Moment::before_finish);
  net.sharded->finish();
}

constexpr Moment kMoments[] = {Moment::before_backward, Moment::between_micro_batches,
                               Moment::between_passes_ahead, Moment::before_finish};

// No operation keeps a bias for backward, so nothing else would notice.
TEST(ChangedValues, SlicesThatAreWrittenWithinAStepAreRefusedOnEveryRank) {
  for (const Mode& mode : modes())
    for (const Moment moment : kMoments) {
      const auto failures = run_group(mode.ranks, [&](const Group& group) {
        Net net(group, mode);
        net.step();
        step_with(net, moment, [&] {
          if (const Tensor bias = net.slice("blocks.1.linear.bias"); bias.defined())
            bias.fill_(0.5);
        });
        net.step();  // a rank that holds no slice of it may have been through with the step before
      });
      EXPECT_THAT(failures,
                  Each(AllOf(HasSubstr("fill_ changed"), HasSubstr("'blocks.1.linear.bias'"),
                             HasSubstr("unit 'blocks.1'"), HasSubstr("values_changed()"))))
          << mode.name << ", " << static_cast<int>(moment);
    }
}

TEST(ChangedValues, ParametersThatAreWrittenInPlaceAreRefusedOnEveryRank) {
  for (const Mode& mode : modes()) {
    const auto written = [&](const Net& net) { return net.parameters[3]; };
    const auto refused =
        Each(AllOf(HasSubstr("fill_ changed parameter 'blocks.1.linear.bias' of unit 'blocks.1'"),
                   HasSubstr("slices()")));
    for (const Moment moment : {Moment::before_backward, Moment::between_passes_ahead})
      EXPECT_THAT(run_group(mode.ranks,
                            [&](const Group& group) {
                              Net net(group, mode);
                              net.step();
                              step_with(net, moment, [&] { written(net).data().fill_(0.5); });
                            }),
                  refused)
          << mode.name << ", " << static_cast<int>(moment);
    EXPECT_THAT(run_group(mode.ranks,
                          [&](const Group& group) {
                            Net net(group, mode);
                            net.step();
                            net.in_forward = [&] { written(net).data().fill_(0.5); };
                            net.step();
                          }),
                refused)
        << mode.name;
    // An evaluation, say, with averaged weights.
    EXPECT_THAT(run_group(mode.ranks,
                          [&](const Group& group) {
                            Net net(group, mode);
                            net.step();
                            net.in_forward = [&] { written(net).data().fill_(0.5); };
                            const NoGradGuard no_grad;
                            net.loss();
                          }),
                refused)
        << mode.name;
  }
}

TEST(ChangedValues, ParametersThatAreReplacedAreRefused) {
  for (const Mode& mode : modes())
    EXPECT_THAT(
        run_group(mode.ranks,
                  [&](const Group& group) {
                    Net net(group, mode);
                    net.step();
                    net.parameters[3].set_data(Tensor::full({kWidth}, 0.5));
                    net.step();
                  }),
        Each(AllOf(
            HasSubstr("set_data() replaced parameter 'blocks.1.linear.bias' of unit 'blocks.1'"),
            HasSubstr("slices()"))))
        << mode.name;
}

// One rank alone writes; the others hear of it.
TEST(ChangedValues, OneRankIsEnough) {
  const auto failures = run_group(3, [&](const Group& group) {
    const Net net = plain(group);
    net.step();
    step_with(net, Moment::between_micro_batches, [&] {
      if (group->rank() == 0) net.slice("blocks.1.linear.weight").fill_(0.5);
    });
  });
  EXPECT_THAT(failures, Each(AllOf(HasSubstr("rank 0: fill_ changed"),
                                   HasSubstr("'blocks.1.linear.weight'"))));
}

// What may be done, at the times when it may be.
TEST(ChangedValues, SlicesThatAreWrittenBetweenStepsCount) {
  enum class When { after_finish, after_evaluation, after_evaluation_with_graph, said_within_step };
  for (const Mode& mode : modes())
    for (const When when : {When::after_finish, When::after_evaluation,
                            When::after_evaluation_with_graph, When::said_within_step}) {
      const auto run = [&](bool writes) {
        std::vector<float> seen;
        expect_success(run_group(mode.ranks, [&](const Group& group) {
          const Net net(group, mode);
          net.step();
          if (when == When::after_evaluation) {
            const NoGradGuard no_grad;
            net.loss();
          }
          if (when == When::after_evaluation_with_graph) net.loss();
          if (when == When::said_within_step) net.backward(net.loss());
          if (writes)
            for (const auto& slice : net.sharded->slices()) slice.values.fill_(0);
          if (when == When::said_within_step) net.sharded->values_changed();
          const auto output = net.output().data().to_vector<float>();
          if (when == When::said_within_step)
            net.backward(net.loss());
          else
            for (int micro = 0; micro < 2; ++micro) net.backward(net.loss());
          net.sharded->finish();
          if (group->rank() == 0) seen = output;
        }));
        return seen;
      };
      EXPECT_EQ(run(true), std::vector<float>(2 * kWidth, 0))
          << mode.name << ", " << static_cast<int>(when);
      EXPECT_NE(run(false), std::vector<float>(2 * kWidth, 0)) << mode.name;
    }
}

TEST(ChangedValues, AStepBetweenForwardAndBackwardIsRefusedOnEveryRank) {
  for (const Mode& mode : modes()) {
    const auto failures = run_group(mode.ranks, [&](const Group& group) {
      const Net net(group, mode);
      net.step();
      const auto sgd = optim::make_sgd(net.sharded->parameters());
      const Variable early = net.loss();
      sgd->step(0.1f);
      net.backward(early);
    });
    EXPECT_THAT(failures, Each(AllOf(HasSubstr("the optimizer's step() changed"),
                                     HasSubstr("'blocks."), HasSubstr("run forward again"))))
        << mode.name;
  }
}

TEST(ChangedValues, AGraphOfBeforeAChangeThatWasSaidIsRefused) {
  for (const Mode& mode : modes()) {
    const auto failures = run_group(mode.ranks, [&](const Group& group) {
      const Net net(group, mode);
      const Variable early = net.loss();
      for (const auto& slice : net.sharded->slices()) slice.values.fill_(0.5);
      net.sharded->values_changed();
      net.backward(early);
    });
    EXPECT_THAT(failures, Each(HasSubstr("before the parameters changed"))) << mode.name;
  }
}

// An evaluation that recorded a graph, of which nothing is left. Who holds a slice of what changes
// sees the values of now afterwards, or ends all ranks with an error, but never sees those of
// before.
TEST(ChangedValues, AReadAfterAnEvaluationSeesNoValuesOfBefore) {
  for (const Mode& mode : modes()) {
    const auto failures = run_group(mode.ranks, [&](const Group& group) {
      const Net net(group, mode);
      net.step();
      net.loss();
      const Parameter& bias = net.parameters[3];
      EXPECT_THAT(bias.data().to_vector<float>(), Each(::testing::Ne(0.5f))) << mode.name;
      for (const auto& slice : net.sharded->slices()) slice.values.fill_(0.5);
      const auto now = bias.data().to_vector<float>();
      if (net.slice(bias.name()).defined()) {
        EXPECT_THAT(now, Each(0.5f)) << mode.name;
      }
    });
    const auto named = AllOf(HasSubstr("fill_ changed"), HasSubstr("NoGradGuard"));
    EXPECT_THAT(failures, Each(::testing::AnyOf("", named))) << mode.name;
  }
}

TEST(ChangedValues, GatheringAgainIsNoChange) {
  for (const Mode& mode : modes())
    expect_success(run_group(mode.ranks, [&](const Group& group) {
      const Net net(group, mode);
      for (int step = 0; step < 3; ++step) {
        net.step();
        optim::make_sgd(net.sharded->parameters())->step(0.1f);
      }
    }));
}

}  // namespace
}  // namespace lockstep::fsdp
