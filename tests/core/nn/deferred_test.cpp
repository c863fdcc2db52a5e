// Models that are built without memory, and drawn part by part.
#include <gmock/gmock.h>

#include "core/nn/init.h"
#include "core/nn/layers.h"
#include "train/models/gpt.h"

namespace lockstep::nn {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr train::GptOptions kGpt{
    .layers = 2, .heads = 2, .dim = 20, .block = 6, .vocab = 31, .scaled_residual_init = true};

int64_t parameter_bytes() {
  return allocator(kCpu).stats().used_bytes[static_cast<size_t>(MemoryCategory::parameters)];
}

std::unique_ptr<train::Gpt> deferred_gpt(uint64_t seed) {
  const DeferredInit deferred;
  auto model = std::make_unique<train::Gpt>(kGpt);
  model->initialize(seed);
  return model;
}

TEST(DeferredInit, TakesNoMemoryAndSaysWhyValuesAreMissing) {
  const int64_t before = parameter_bytes();
  const auto model = deferred_gpt(1);
  EXPECT_EQ(parameter_bytes(), before);
  const Parameter first = model->parameters().front();
  EXPECT_EQ(first.shape(), (Shape{31, 20}));
  EXPECT_THAT([&] { first.data().to_vector<float>(); },
              ThrowsMessage<UsageError>(HasSubstr("nn::DeferredInit")));
}

TEST(DeferredInit, AnyRangeIsWhatTheWholeHasThere) {
  train::Gpt whole(kGpt);
  whole.initialize(7);
  const auto deferred = deferred_gpt(7);
  const auto wanted = whole.parameters(), drawn = deferred->parameters();
  ASSERT_EQ(drawn.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int64_t numel = wanted[i].data().numel();
    for (const auto& [first, length] : {std::pair<int64_t, int64_t>{0, numel},
                                        {numel / 3, numel - numel / 3},
                                        {numel / 2, 1},
                                        {numel, 0}}) {
      const Tensor part = Tensor::empty({length});
      drawn[i].draw_initial(first, part);
      EXPECT_EQ(part.to_vector<float>(),
                wanted[i].data().flatten().narrow(0, first, length).to_vector<float>())
          << drawn[i].name() << " from " << first;
    }
  }
}

TEST(DeferredInit, MaterializeGivesTheUsualModel) {
  train::Gpt usual(kGpt);
  usual.initialize(3);
  const auto model = deferred_gpt(3);
  const int64_t before = parameter_bytes();
  model->materialize();
  EXPECT_GT(parameter_bytes(), before);
  const auto wanted = usual.parameters(), got = model->parameters();
  for (size_t i = 0; i < wanted.size(); ++i)
    EXPECT_EQ(got[i].data().to_vector<float>(), wanted[i].data().to_vector<float>())
        << got[i].name();
}

// Values that were loaded before are no missing ones.
TEST(DeferredInit, MaterializeLeavesWhatHasMemoryAlone) {
  std::unique_ptr<Linear> layer;
  {
    const DeferredInit deferred;
    layer = std::make_unique<Linear>(4, 3);
  }
  layer->initialize(1);
  const auto& place = layer->weight.data().storage();
  place->attach(std::make_shared<Storage>(place->bytes(), kCpu));
  layer->weight.data().fill_(7);
  layer->materialize();
  EXPECT_THAT(layer->weight.data().to_vector<float>(), ::testing::Each(7.0f));
  layer->bias.data().fill_(8);
  layer->materialize();
  EXPECT_THAT(layer->bias.data().to_vector<float>(), ::testing::Each(8.0f));
}

TEST(DeferredInit, RangesAndMissingInitializersAreErrors) {
  const DeferredInit deferred;
  Linear layer(2, 2);
  EXPECT_THAT([&] { layer.materialize(); },
              ThrowsMessage<UsageError>(HasSubstr("call initialize(seed) on the model first")));
  layer.initialize(1);
  EXPECT_THAT([&] { layer.weight.draw_initial(3, Tensor::zeros({2})); },
              ThrowsMessage<UsageError>(HasSubstr("from element 3")));
}

}  // namespace
}  // namespace lockstep::nn
