// Which units are gathered, in which order, and when they are let go: as the calls that a group has
// seen.
#include <gmock/gmock.h>

#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kWidth = 8;

// The calls of a group since the last time.
class Calls {
 public:
  explicit Calls(Group group) : group_(std::move(group)) { take(); }

  // As the group tells of them: "all_gather #7 (f32, 64 elements, label 3): took ...".
  std::vector<std::string> take() {
    std::vector<std::string> calls;
    for (const std::string& line : group_->recent_calls()) {
      const auto number = std::stoull(line.substr(line.find('#') + 1));
      if (number <= last_ && last_ > 0) continue;
      last_ = number;
      calls.push_back(line);
    }
    return calls;
  }
  // The units that were gathered, by index; the root's must be the first. Labels count from it on.
  std::vector<uint64_t> take_gathers() {
    std::vector<uint64_t> units;
    for (const std::string& call : take()) {
      if (call.rfind("all_gather ", 0) != 0) continue;
      const uint64_t label = std::stoull(call.substr(call.find("label ") + 6));
      if (!root_) root_ = label;
      // A unit with frozen parameters gathers them apart.
      if (units.empty() || units.back() != label - *root_) units.push_back(label - *root_);
    }
    return units;
  }

 private:
  const Group group_;
  uint64_t last_ = 0;
  std::optional<uint64_t> root_;
};

struct Net {
  std::shared_ptr<Tree> root = std::make_shared<Tree>();
  std::vector<Parameter> matrices;
  std::function<void()> in_first = [] {};  // runs within the first block
  std::unique_ptr<FullyShardedDataParallel> sharded;

  Variable loss() const {
    return ops::mean(ops::square((*root)(Variable(random({2, kWidth}, 1)))));
  }
};

Variable product(const Variable& x, const Parameter& matrix) {
  return ops::cast(ops::linear(x, matrix, {}), DType::f32);
}

// Units 1 to 4 are a chain of blocks, each with a matrix, frozen or not, and a trained vector.
void with_chain(Options options, bool frozen, const std::function<void(Net&, Calls&)>& run) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    const auto blocks = std::make_shared<nn::Sequential>();
    for (int i = 0; i < 4; ++i) {
      const auto block = std::make_shared<Tree>();
      const Parameter matrix = block->register_parameter(
          "matrix", random({kWidth, kWidth}, 10 + static_cast<uint32_t>(i)));
      const Parameter vector = block->register_parameter("vector", Tensor::full({kWidth}, 1.0));
      matrix.set_requires_grad(!frozen);
      net.matrices.push_back(matrix);
      block->body = [&net, i, matrix, vector](const Variable& x) {
        if (i == 0) net.in_first();
        return ops::mul(product(x, matrix), vector);
      };
      blocks->append(block);
    }
    net.root->register_module("blocks", blocks);
    const Parameter scale = net.root->register_parameter("scale", Tensor::full({kWidth}, 1.0));
    net.root->body = [=](const Variable& x) { return ops::mul((*blocks)(x), scale); };
    Options own = options;
    own.micro_batches = 4;
    net.sharded = fully_shard(net.root, group, own);
    Calls calls(group);
    run(net, calls);
  }));
}

// What was used last is still there when backward begins with it, and when the next pass begins.
TEST(Schedule, TheUnitThatWasNotUsedForLongestIsLetGo) {
  for (const bool frozen : {false, true})
    with_chain({.units_in_flight = 2}, frozen, [](const Net& net, Calls& calls) {
      for (const bool first : {true, false}) {
        const Variable loss = net.loss();
        if (first)
          EXPECT_THAT(calls.take_gathers(), ElementsAre(0, 1, 2, 3, 4));
        else
          EXPECT_THAT(calls.take_gathers(), ElementsAre(3, 4));
        net.sharded->backward(loss);
        EXPECT_THAT(calls.take_gathers(), ElementsAre(2, 1));
      }
      net.sharded->finish();
    });
}

TEST(Schedule, TheNextUnitIsFetchedBeforeItIsNeeded) {
  with_chain({.units_in_flight = 2}, false, [](Net& net, Calls& calls) {
    const NoGradGuard no_grad;
    net.loss();  // shows the order
    calls.take_gathers();
    std::vector<uint64_t> seen;
    net.in_first = [&] { seen = calls.take_gathers(); };
    net.loss();
    EXPECT_THAT(seen, ElementsAre(1, 2));
  });
}

TEST(Schedule, AStepWithoutAnEvaluationAgreesOnNothing) {
  with_chain({}, false, [](const Net& net, Calls& calls) {
    for (int step = 0; step < 2; ++step) {
      for (int micro = 0; micro < 2; ++micro) net.sharded->backward(net.loss());
      net.sharded->finish();
      EXPECT_THAT(calls.take(), Not(Contains(HasSubstr("all_reduce"))));
    }
  });
}

// Unit 1 holds units 2 and 3, a matrix before them and a vector after them.
void with_nest(bool frozen, const std::function<void(Net&, Calls&)>& run) {
  expect_success(run_group(2, [&](const Group& group) {
    Net net;
    const auto outer = std::make_shared<Tree>();
    const auto inner = std::make_shared<nn::Sequential>();
    for (int i = 0; i < 2; ++i) inner->append(std::make_shared<nn::Linear>(kWidth, kWidth));
    outer->register_module("inner", inner);
    const Parameter vector = outer->register_parameter("vector", Tensor::full({kWidth}, 1.0));
    Parameter matrix;
    if (frozen) {
      matrix = outer->register_parameter("matrix", random({kWidth, kWidth}, 10));
      matrix.set_requires_grad(false);
    }
    outer->body = [=](const Variable& x) {
      return ops::mul((*inner)(frozen ? product(x, matrix) : x), vector);
    };
    net.root->register_module("outer", outer);
    const Parameter scale = net.root->register_parameter("scale", Tensor::full({kWidth}, 1.0));
    net.root->body = [=](const Variable& x) { return (*outer)(ops::mul(x, scale)); };
    net.root->initialize(1);
    scale.data().fill_(1);
    const auto wrap = [](const nn::Module& m) {
      return m.path() == "outer" || m.path().rfind("outer.inner.", 0) == 0;
    };
    net.sharded =
        fully_shard(net.root, group, {.micro_batches = 4, .wrap = wrap, .units_in_flight = 1});
    Calls calls(group);
    run(net, calls);
  }));
}

// Its gradients are complete long before the units inside of it are through.
TEST(Schedule, AUnitIsLetGoWhenItsGradientsAreComplete) {
  with_nest(false, [](const Net& net, Calls& calls) {
    const Variable loss = net.loss();
    EXPECT_THAT(calls.take_gathers(), ElementsAre(0, 1, 2, 3));
    net.sharded->backward(loss);
    EXPECT_THAT(calls.take_gathers(), ElementsAre(2));
    net.loss();
    EXPECT_THAT(calls.take_gathers(), ElementsAre(1, 2, 3));
  });
}

// Its frozen matrix passes gradients on when the trained vector has its own for long.
TEST(Schedule, AUnitWithFrozenParametersStaysUntilItsPassIsOver) {
  with_nest(true, [](const Net& net, Calls& calls) {
    const Variable loss = net.loss();
    EXPECT_THAT(calls.take_gathers(), ElementsAre(0, 1, 2, 3));
    net.sharded->backward(loss);
    EXPECT_THAT(calls.take_gathers(), ElementsAre(2));
  });
}

// Else the whole model would stay, in bf16.
TEST(Schedule, CopiesForComputeGoWithTheirUnit) {
  with_chain({.compute = DType::bf16, .units_in_flight = 1}, false, [](const Net& net, Calls&) {
    const ops::PrecisionScope precision(DType::bf16);
    const Variable loss = net.loss();
    const auto has_copy = [&](size_t i) { return net.matrices[i].impl()->compute_copy.defined(); };
    EXPECT_TRUE(has_copy(3)) << "the last block is still whole";
    for (size_t i = 0; i < 3; ++i) EXPECT_FALSE(has_copy(i)) << i;
    net.sharded->backward(loss);
    EXPECT_FALSE(has_copy(3));
  });
}

}  // namespace
}  // namespace lockstep::fsdp
