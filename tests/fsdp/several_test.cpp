// Units whose modules take and return several Variables: attention with a mask, an encoder and a
// decoder, outputs that reach the loss or not. Gradients have the bits of one rank without FSDP.
#include <atomic>

#include <gmock/gmock.h>

#include "core/device/allocator.h"
#include "core/nn/layers.h"
#include "tests/fsdp/training.h"

namespace lockstep::fsdp {
namespace {

using namespace test;
using nn::Variables;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kWidth = 24, kTokens = 7;

Variable f32(const Variable& x) { return ops::cast(x, DType::f32); }

// h [B, C], memory [B, C] (may be undefined), mask [B] of i64 → h, the memory for the next one, and
// the mask as it came.
struct Block final : nn::Module {
  std::shared_ptr<nn::Linear> own =
      register_module("own", std::make_shared<nn::Linear>(kWidth, kWidth));
  std::shared_ptr<nn::Linear> read =
      register_module("read", std::make_shared<nn::Linear>(kWidth, kWidth));
  std::shared_ptr<nn::Embedding> masked =
      register_module("masked", std::make_shared<nn::Embedding>(2, kWidth));

  Variables forward_all(const Variables& in) override {
    const Variable& h = in.at(0);
    const Variable seen = ops::mul(h, f32((*masked)(in.at(2))));
    const Variable read_from = in.at(1).defined() ? ops::add(in[1], h) : h;
    const Variable memory = ops::tanh(f32((*read)(read_from)));
    const Variable out = ops::add(h, ops::gelu(f32((*own)(seen))));
    return {ops::add(out, memory), memory, in[2]};
  }
};

// Ids [B] → h [B, C].
struct Encoder final : nn::Module {
  std::shared_ptr<nn::Embedding> table =
      register_module("table", std::make_shared<nn::Embedding>(kTokens, kWidth));
  std::shared_ptr<nn::Linear> out =
      register_module("out", std::make_shared<nn::Linear>(kWidth, kWidth));
  Variable forward(const Variable& ids) override { return ops::tanh(f32((*out)((*table)(ids)))); }
};

// Which of the last block's outputs reach the loss.
enum class Uses { both, first, second, none };

// Tokens and a mask through an encoder and three blocks; `optional`: the first block has no memory.
struct Net final : nn::Module {
  std::shared_ptr<Encoder> encoder = register_module("encoder", std::make_shared<Encoder>());
  std::shared_ptr<nn::Module> blocks;
  Parameter scale = register_parameter("scale", Tensor::full({kWidth}, 1.5));
  bool optional = false;

  Net() {
    const auto made = std::make_shared<Tree>();
    for (int i = 0; i < 3; ++i) made->register_module(std::to_string(i), std::make_shared<Block>());
    blocks = register_module("blocks", std::static_pointer_cast<nn::Module>(made));
  }
  Variables forward_all(const Variables& in) override {
    const Variable first = (*encoder)(in.at(0));
    Variables state{first, optional ? Variable() : first, in.at(1)};
    for (const auto& block : blocks->children()) state = block.second->call(state);
    return {ops::mul(state[0], scale), state[1], state[2]};
  }
};

Variable ids_of(int64_t micro, int64_t below) {
  std::vector<int64_t> ids(5);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = (micro * 3 + static_cast<int64_t>(i * i)) % below;
  return Variable(Tensor::from(ids, {5}));
}

Model make_net(Uses uses, bool optional, bool recomputes) {
  const auto net = std::make_shared<Net>();
  net->optional = optional;
  for (const auto& block : net->blocks->children()) block.second->set_recompute(recomputes);
  net->initialize(5);
  return {net, [=](int64_t micro) {
            const Variables out = net->call({ids_of(micro, kTokens), ids_of(micro, 2)});
            EXPECT_EQ(out.at(2).dtype(), DType::i64);
            Variable loss = ops::mean(ops::square(net->scale));
            if (uses == Uses::both || uses == Uses::first)
              loss = ops::add(loss, ops::mean(ops::square(out[0])));
            if (uses == Uses::both || uses == Uses::second)
              loss = ops::add(loss, ops::mean(ops::square(out[1])));
            return loss;
          }};
}

std::vector<Options> modes() {
  const Options unused{.find_unused_parameters = true};
  std::vector<Options> modes(6, unused);
  modes[0].units_in_flight = 1;
  modes[2].reshard = Reshard::after_step;
  modes[3].accumulate = Accumulate::in_full;
  modes[4].nearby = 1;
  modes[5].wrap = [](const nn::Module& m) { return m.path() != "blocks"; };  // nested, each layer
  return modes;
}

TEST(Several, AnyOutputsMayReachTheLoss) {
  for (const Uses uses : {Uses::both, Uses::first, Uses::second, Uses::none})
    for (const bool optional : {false, true})
      for (const bool recomputes : {false, true}) {
        Recipe recipe{.make = [=] { return make_net(uses, optional, recomputes); }};
        const Bits want =
            train_reference({.make = [=] { return make_net(uses, optional, false); }});
        for (const int ranks : {1, 2, 3, 4})
          for (const Options& options : modes()) {
            recipe.options = options;
            EXPECT_EQ(train_sharded(recipe, ranks), want)
                << ranks << " ranks, uses " << static_cast<int>(uses) << ", optional " << optional
                << ", recomputes " << recomputes << ", mode " << options.units_in_flight
                << static_cast<int>(options.reshard) << static_cast<int>(options.accumulate);
          }
      }
}

TEST(Several, InBf16TheModelHandsOnFloatingOutputsAsF32) {
  Recipe recipe{.make = [] { return make_net(Uses::both, true, false); }, .compute = DType::bf16};
  const Bits want = train_reference(recipe);
  recipe.options.output = DType::f32;
  for (const int ranks : {1, 2, 4}) EXPECT_EQ(train_sharded(recipe, ranks), want) << ranks;
}

// What the loss uses is the second output, which holds the layer.
struct Second final : nn::Module {
  std::shared_ptr<nn::Linear> layer =
      register_module("layer", std::make_shared<nn::Linear>(kWidth, kWidth));
  Variables forward_all(const Variables& in) override {
    return {ops::mul(in.at(0), 2.0f), ops::tanh((*layer)(in.at(0)))};
  }
};

// Else each block would be gathered by reads, which make no room.
TEST(Several, BackwardMakesRoomWhicheverOutputItComesTo) {
  constexpr int kRanks = 2;
  std::atomic<int64_t> planned = 0;
  allocator(kCpu).reset_peak();
  expect_success(run_group(kRanks, [&](const Group& group) {
    const auto root = std::make_shared<Tree>();
    for (int i = 0; i < 5; ++i)
      root->register_module(std::to_string(i), std::make_shared<Second>());
    root->body = [root = root.get()](const Variable& in) {
      Variable x = in;
      for (const auto& block : root->children()) x = block.second->call({x})[1];
      return x;
    };
    root->initialize(5);
    const auto sharded = fully_shard(root, group, {.units_in_flight = 1});
    planned += sharded->memory_plan().gathered;
    const Variable x(random({3, kWidth}, 1));
    sharded->backward(ops::mean((*root)(x)));
    sharded->finish();
  }));
  EXPECT_LE(allocator(kCpu).stats().peak_bytes[static_cast<size_t>(MemoryCategory::gathered)],
            planned);
}

// No gradient reaches what lies behind the first output of the last block.
TEST(Several, ParametersBehindAnOutputThatIsNotUsedAreNamed) {
  for (const int ranks : {1, 2})
    EXPECT_THAT(run_group(ranks,
                          [](const Group& group) {
                            const Model model = make_net(Uses::second, false, false);
                            const auto sharded = fully_shard(model.module, group);
                            sharded->backward(model.loss(group->rank()));
                          }),
                Each(HasSubstr("no gradient reached 'blocks.2.own.weight'")));
}

}  // namespace
}  // namespace lockstep::fsdp
