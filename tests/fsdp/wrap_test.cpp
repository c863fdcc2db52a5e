#include "fsdp/wrap.h"

#include <gmock/gmock.h>

#include "core/nn/layers.h"

namespace lockstep::fsdp {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> names(const UnitPlan& unit) {
  std::vector<std::string> out;
  for (const Parameter& p : unit.parameters) out.push_back(p.name());
  return out;
}

std::vector<std::string> units(const std::vector<UnitPlan>& plans) {
  std::vector<std::string> out;
  for (const UnitPlan& plan : plans) out.push_back(plan.name);
  return out;
}

// A tree built from the outside.
struct Tree : nn::Module {
  using nn::Module::register_module;
  using nn::Module::register_parameter;
  using nn::Module::register_shared_parameter;
  Variable forward(const Variable& x) override { return x; }
};

std::shared_ptr<nn::Sequential> stack(int layers) {
  auto blocks = std::make_shared<nn::Sequential>();
  for (int i = 0; i < layers; ++i) blocks->append(std::make_shared<nn::CausalSelfAttention>(8, 2));
  return blocks;
}

TEST(PlanUnits, BlocksAreUnitsAndTheRootHoldsTheRest) {
  Tree root;
  root.register_module("wte", std::make_shared<nn::Embedding>(4, 8));
  root.register_module("blocks", stack(2));
  root.register_module("lnf", std::make_shared<nn::LayerNorm>(8));
  const auto plans = plan_units(root, {});
  EXPECT_THAT(units(plans), ElementsAre("root", "blocks.0", "blocks.1"));
  EXPECT_THAT(names(plans[0]), ElementsAre("wte.weight", "lnf.weight", "lnf.bias"));
  EXPECT_THAT(names(plans[2]), ElementsAre("blocks.1.qkv.weight", "blocks.1.qkv.bias",
                                           "blocks.1.proj.weight", "blocks.1.proj.bias"));
}

TEST(PlanUnits, AModelWithoutBlocksIsOneUnit) {
  nn::Linear linear(3, 4);
  EXPECT_THAT(units(plan_units(linear, {})), ElementsAre("root"));
}

TEST(PlanUnits, ARuleMayNestUnits) {
  Tree root;
  root.register_module("blocks", stack(1));
  const auto plans = plan_units(
      root, [](const nn::Module& m) { return m.path() == "blocks" || m.path() == "blocks.0.qkv"; });
  EXPECT_THAT(units(plans), ElementsAre("root", "blocks", "blocks.0.qkv"));
  EXPECT_THAT(names(plans[0]), IsEmpty());
  EXPECT_THAT(names(plans[1]), ElementsAre("blocks.0.proj.weight", "blocks.0.proj.bias"));
}

TEST(WrapRule, NamesModulesByPath) {
  Tree root;
  root.register_module("wte", std::make_shared<nn::Embedding>(4, 8));
  root.register_module("blocks", stack(2));
  const auto planned = [&](const std::string& words) {
    return units(plan_units(root, wrap_rule(words, root)));
  };
  EXPECT_THAT(planned("blocks"), ElementsAre("root", "blocks.0", "blocks.1"));
  EXPECT_THAT(planned("none"), ElementsAre("root"));
  EXPECT_THAT(planned("wte, blocks.*.qkv"),
              ElementsAre("root", "wte", "blocks.0.qkv", "blocks.1.qkv"));
  EXPECT_THAT(planned("*.1"), ElementsAre("root", "blocks.1"));
  const auto refused = [&](const std::string& words) {
    try {
      wrap_rule(words, root);
      return std::string();
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
  };
  EXPECT_THAT(refused("wte, blocs.*"),
              AllOf(HasSubstr("'blocs.*'"), HasSubstr("the model consists of wte, blocks")));
  EXPECT_THAT(refused("wte,"), HasSubstr("no module has the path ''"));
}

TEST(PlanUnits, ATiedParameterBelongsToTheInnermostUnitAroundItsUses) {
  Tree root;
  const auto outer = root.register_module("outer", std::make_shared<Tree>());
  const auto a = outer->register_module("a", std::make_shared<Tree>()),
             b = outer->register_module("b", std::make_shared<Tree>());
  const auto other = root.register_module("other", std::make_shared<Tree>());
  const Parameter near = a->register_parameter("near", Tensor::zeros({2})),
                  far = b->register_parameter("far", Tensor::zeros({2}));
  a->register_parameter("own", Tensor::zeros({2}));
  b->register_shared_parameter("near", near);
  other->register_shared_parameter("far", far);
  const auto plans = plan_units(root, [&](const nn::Module& m) { return &m != &root; });
  // B and other have nothing of their own.
  EXPECT_THAT(units(plans), ElementsAre("root", "outer", "outer.a"));
  EXPECT_THAT(names(plans[0]), ElementsAre("outer.b.far"));
  EXPECT_THAT(names(plans[1]), ElementsAre("outer.a.near"));
  EXPECT_THAT(names(plans[2]), ElementsAre("outer.a.own"));
}

TEST(PlanUnits, AModuleThatIsRegisteredTwiceIsOneUnit) {
  Tree root;
  const auto shared = std::make_shared<nn::Linear>(2, 2);
  root.register_module("first", shared);
  root.register_module("again", shared);
  const auto plans = plan_units(root, [&](const nn::Module& m) { return &m == shared.get(); });
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[1].parameters.size(), 2u);
}

}  // namespace
}  // namespace lockstep::fsdp
