// Any module may be a unit: one that is called several times, only read, never used, inside of
// others, or without the root. Gradients have the bits of one rank without FSDP.
#include <gmock/gmock.h>

#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 20;

Variable input(int64_t micro) {
  return Variable(random({3, kWidth}, 1 + static_cast<uint32_t>(micro)));
}

std::shared_ptr<nn::Linear> linear() { return std::make_shared<nn::Linear>(kWidth, kWidth); }

// A tree with three linear layers "a", "b" and "c" below "list", whose forward never runs.
struct Parts {
  std::shared_ptr<Tree> root = std::make_shared<Tree>(), list = std::make_shared<Tree>();
  std::shared_ptr<nn::Linear> a = linear(), b = linear(), c = linear();
  Parameter scale = root->register_parameter("scale", Tensor::full({kWidth}, 1.5));

  Parts() {
    list->register_module("a", a);
    list->register_module("b", b);
    list->register_module("c", c);
    root->register_module("list", list);
  }
  // The root's output is the loss.
  Model as_model() const {
    root->initialize(7);
    return {root,
            [root = root](int64_t micro) { return ops::mean(ops::square((*root)(input(micro)))); }};
  }
};

struct Named {
  const char* name;
  std::function<Model()> make;
};

Named with_body(const char* name,
                const std::function<Variable(const Parts&, const Variable&)>& body) {
  return {name, [body] {
            const auto parts = std::make_shared<Parts>();
            // The tree owns its layers, and must not own itself.
            const std::weak_ptr<Parts> weak = parts;
            parts->root->body = [weak, body](const Variable& x) { return body(*weak.lock(), x); };
            Model model = parts->as_model();
            model.loss = [parts, loss = model.loss](int64_t micro) { return loss(micro); };
            return model;
          }};
}

std::vector<Named> models() {
  return {
      with_body("called in turn",
                [](const Parts& p, const Variable& x) {
                  return ops::mul((*p.c)(ops::gelu((*p.b)((*p.a)(x)))), p.scale);
                }),
      with_body("one called several times, others between",
                [](const Parts& p, const Variable& x) {
                  const Variable once = (*p.a)(x);
                  const Variable twice = (*p.a)(ops::tanh((*p.b)(once)));
                  return ops::add((*p.c)((*p.a)(twice)), ops::mul(once, p.scale));
                }),
      with_body(
          "one never used",
          [](const Parts& p, const Variable& x) { return ops::mul((*p.c)((*p.a)(x)), p.scale); }),
      with_body("one only read, before and after others are called",
                [](const Parts& p, const Variable& x) {
                  const Variable y = ops::linear((*p.a)(x), p.b->weight, p.b->bias);
                  return ops::add(ops::linear((*p.c)(y), p.b->weight, {}), ops::mul(x, p.scale));
                }),
      with_body("one whose output is dropped",
                [](const Parts& p, const Variable& x) {
                  (*p.b)(x);
                  return ops::mul((*p.c)((*p.a)(x)), p.scale);
                }),
      with_body("one that is called without gradients, too", [](const Parts& p, const Variable& x) {
        Variable constant;
        {
          const NoGradGuard no_grad;
          constant = (*p.b)((*p.c)(x));
        }
        return ops::mul((*p.c)(ops::add((*p.b)((*p.a)(x)), constant)), p.scale);
      })};
}

// What is called are the layers, not the root.
Model layers_alone() {
  const auto parts = std::make_shared<Parts>();
  Model model = parts->as_model();
  model.loss = [parts](int64_t micro) {
    const Variable y = (*parts->b)(ops::gelu((*parts->a)(input(micro))));
    return ops::add(ops::mean(ops::square(ops::mul((*parts->c)(y), parts->scale))),
                    ops::mean(ops::square((*parts->a)(input(micro + 50)))));
  };
  return model;
}

struct Wrap {
  const char* name;
  std::function<bool(const nn::Module&)> rule;
};

std::vector<Wrap> wraps() {
  return {{"blocks", {}},
          {"the list, whose forward never runs",
           [](const nn::Module& m) { return m.path() == "list"; }},
          {"nested", [](const nn::Module& m) { return m.path() != ""; }},
          {"one", [](const nn::Module& m) { return m.path() == "list.b"; }}};
}

TEST(AnyUnit, HasTheBitsOfOneRank) {
  for (const Named& model : models()) {
    Recipe recipe{.make = model.make};
    const Bits want = train_reference(recipe);
    for (const Wrap& wrap : wraps())
      for (const int ranks : {1, 2, 3, 4})
        for (Options options :
             {Options{.units_in_flight = 1}, Options{}, Options{.reshard = Reshard::after_step},
              Options{.accumulate = Accumulate::in_full}}) {
          options.wrap = wrap.rule;
          options.find_unused_parameters = true;
          recipe.options = options;
          EXPECT_EQ(train_sharded(recipe, ranks), want)
              << model.name << "; units: " << wrap.name << "; " << ranks << " ranks, in flight "
              << options.units_in_flight;
        }
  }
}

TEST(AnyUnit, MayBeCalledWithoutTheRoot) {
  Recipe recipe{.make = layers_alone};
  const Bits want = train_reference(recipe);
  for (const int ranks : {1, 2, 3, 4})
    for (Options options : {Options{.units_in_flight = 1}, Options{.reshard = Reshard::after_step},
                            Options{.accumulate = Accumulate::in_full}}) {
      options.wrap = [](const nn::Module&) { return true; };
      recipe.options = options;
      EXPECT_EQ(train_sharded(recipe, ranks), want) << ranks << " ranks";
    }
}

// Its parameters belong to the root, whose forward pass gathers them.
TEST(AnyUnit, WithoutTheRootALayerThatIsNoUnitIsNamed) {
  EXPECT_THAT(
      run_group(2,
                [](const Group& group) {
                  const Model model = layers_alone();
                  const auto sharded = fully_shard(
                      model.module, group,
                      {.wrap = [](const nn::Module& m) { return m.path() == "list.b"; }});
                  model.loss(group->rank());
                }),
      Each(AllOf(HasSubstr("'list.a.weight' of unit 'root'"), HasSubstr("choose other units"))));
}

// A forward pass within the model throws, and the model goes on without it.
TEST(AnyUnit, MayThrowWhereTheModelCatchesIt) {
  const auto make = [](bool tries) {
    return with_body("",
                     [tries](const Parts& p, const Variable& x) {
                       const Variable y = (*p.a)(x);
                       if (tries) {
                         try {
                           (*p.b)(Variable(Tensor::zeros({1, kWidth + 1})));
                           ADD_FAILURE() << "the input is too wide";
                         } catch (const UsageError&) {
                         }
                       }
                       return ops::mul((*p.c)((*p.b)(y)), p.scale);
                     })
        .make;
  };
  const Bits want = train_reference({.make = make(false)});
  for (const int ranks : {1, 2, 4})
    EXPECT_EQ(train_sharded({.make = make(true), .options = {.units_in_flight = 1}}, ranks), want)
        << ranks << " ranks";
}

// Where no root's pass begins anew, the next backward() forgets a pass that threw.
TEST(AnyUnit, APassThatThrewWithoutTheRootIsForgotten) {
  const auto gradients = [](bool fails) {
    Bits result;
    expect_success(run_group(2, [&](const Group& group) {
      const Parts parts;
      parts.root->initialize(7);
      const auto sharded =
          fully_shard(parts.root, group, {.micro_batches = 4, .units_in_flight = 1});
      const auto loss = [&](int64_t micro) {
        const Variable y = (*parts.c)((*parts.b)((*parts.a)(input(micro))));
        return ops::mean(ops::square(ops::mul(y, parts.scale)));
      };
      for (const int64_t leaf : sharded->leaves()) {
        const Variable made = loss(leaf);
        if (fails) {
          EXPECT_THROW((*parts.a)(Variable(Tensor::zeros({1, kWidth + 1}))), UsageError);
        }
        sharded->backward(made);
      }
      sharded->finish();
      // What no pass holds any more is not there for ever.
      EXPECT_THROW(parts.a->weight.data().to_vector<float>(), UsageError);
      for (const Parameter& p : sharded->parameters()) p.data().copy_(p.grad());
      sharded->values_changed();
      sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
        if (group->rank() == 0) result[name] = bits(whole);
      });
    }));
    return result;
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

}  // namespace
}  // namespace lockstep::fsdp
