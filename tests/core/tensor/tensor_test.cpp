#include "core/tensor/tensor.h"

#include <numeric>

#include <gmock/gmock.h>

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// 0, 1, 2, …
Tensor counting(const Shape& shape) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0.0f);
  return Tensor::from(values, shape);
}

TEST(Shape, BroadcastsByNumpysRules) {
  EXPECT_EQ(broadcast_shapes({3, 1}, {2, 1, 4}, "add"), (Shape{2, 3, 4}));
  EXPECT_EQ(broadcast_shapes({}, {5}, "add"), (Shape{5}));
  EXPECT_EQ(broadcast_shapes({0}, {1}, "add"), (Shape{0}));
  EXPECT_THAT(
      [] {
        broadcast_shapes({2, 3}, {2, 4}, "add");
      },
      ThrowsMessage<UsageError>(HasSubstr("[add] shapes [2, 3] and [2, 4]")));
}

TEST(Shape, RefusesMoreElementsThanAnIntegerHolds) {
  EXPECT_THROW(Shape({int64_t{1} << 40, int64_t{1} << 40}).numel(), UsageError);
  EXPECT_THROW(Shape({-1}).numel(), UsageError);
}

TEST(Tensor, ViewsShareStorage) {
  const Tensor t = counting({2, 3});
  t.transpose(0, 1).narrow(0, 1, 1).fill_(9);
  EXPECT_THAT(t.to_vector<float>(), ElementsAre(0, 9, 2, 3, 9, 5));
  t.select(0, 1).view({3, 1}).fill_(7);
  EXPECT_THAT(t.to_vector<float>(), ElementsAre(0, 9, 2, 7, 7, 7));
}

TEST(Tensor, TransposedElementsComeInTheirNewOrder) {
  const Tensor t = counting({2, 3}).transpose(0, 1);
  EXPECT_FALSE(t.is_contiguous());
  EXPECT_THAT(t.to_vector<float>(), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_THAT(t.contiguous().span<float>(), ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST(Tensor, ViewNeedsACompatibleLayoutAndReshapeDoesNot) {
  const Tensor t = counting({2, 3, 4}).transpose(0, 1);  // [3, 2, 4]
  EXPECT_THAT([&] { t.view({6, 4}); }, ThrowsMessage<UsageError>(HasSubstr("reshape()")));
  EXPECT_EQ(t.reshape({-1, 4}).shape(), (Shape{6, 4}));
  EXPECT_FLOAT_EQ(t.reshape({6, 4}).select(0, 1).to_vector<float>()[0], 12.0f);
  // Cutting a dimension that is dense in itself works in any layout.
  EXPECT_EQ(t.view({3, 2, 2, 2}).storage(), t.storage());
  EXPECT_THAT([&] { t.view({5, -1}); }, ThrowsMessage<UsageError>(HasSubstr("cannot infer")));
}

TEST(Tensor, ExpandRepeatsWithoutMemory) {
  const Tensor row = counting({1, 3});
  const Tensor t = row.expand({2, 2, 3});
  EXPECT_EQ(t.storage(), row.storage());
  EXPECT_THAT(t.to_vector<float>(), ElementsAre(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2));
  EXPECT_THROW(row.expand({1, 4}), UsageError);
}

TEST(Tensor, CopyBroadcastsAndConverts) {
  const Tensor t = Tensor::empty({2, 2}, DType::i32);
  t.copy_(Tensor::from(std::vector<float>{1, -2}, {2}));
  EXPECT_THAT(t.to_vector<int32_t>(), ElementsAre(1, -2, 1, -2));
}

TEST(Tensor, Bf16RoundsToNearestEven) {
  // Neighbours of 1 in bf16 are 2^-7 apart.
  const std::vector<float> values{1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, 1.0f + 0x1.8p-8f, -3.0f};
  EXPECT_THAT(Tensor::from(values, {4}).to(DType::bf16).to_vector<float>(),
              ElementsAre(1.0f, 1.0f + 0x1p-6f, 1.0f + 0x1p-7f, -3.0f));
}

TEST(Tensor, LargeIntegersSurviveItem) {
  EXPECT_EQ(Tensor::from(std::vector<int64_t>{(int64_t{1} << 40) + 1}, {}).item(),
            static_cast<double>((int64_t{1} << 40) + 1));
}

TEST(Tensor, EmptyTensorsAreFine) {
  const Tensor t = Tensor::zeros({0, 3});
  EXPECT_EQ(t.numel(), 0);
  EXPECT_TRUE(t.transpose(0, 1).clone().to(DType::bf16).to_vector<float>().empty());
  EXPECT_EQ(t.reshape({3, 0}).shape(), (Shape{3, 0}));
}

TEST(Tensor, WrapsMemoryOwnedElsewhereAndReleasesItOnce) {
  std::vector<float> memory{1, 2, 3, 4};
  int released = 0;
  {
    const auto storage = std::make_shared<Storage>(memory.data(), memory.size() * sizeof(float),
                                                   kCpu, [&] { ++released; });
    const Tensor t = Tensor::wrap(storage, {2}, DType::f32, 8);
    const Tensor view = t.narrow(0, 1, 1);
    view.fill_(9);
    EXPECT_THROW(Tensor::wrap(storage, {4}, DType::f32, 8), UsageError);
  }
  EXPECT_EQ(released, 1);
  EXPECT_THAT(memory, ElementsAre(1, 2, 3, 9));
}

TEST(Tensor, AbsentMemoryKeepsItsShapeAndSaysWhyItIsAway) {
  const auto place = Storage::absent(8, kCpu, "unit 'blocks.0' is sharded");
  const Tensor t = Tensor::wrap(place, {2}, DType::f32), row = t.narrow(0, 1, 1);
  EXPECT_EQ(t.shape(), (Shape{2}));
  EXPECT_THAT(
      [&] { row.raw(); },
      ThrowsMessage<UsageError>(HasSubstr("f32[1] are not in memory: unit 'blocks.0' is sharded")));
  const Tensor first = Tensor::from(std::vector<float>{9, 1, 2}, {3}),
               second = Tensor::from(std::vector<float>{3, 4}, {2});
  place->attach(first.storage(), sizeof(float));
  EXPECT_THAT(t.to_vector<float>(), ElementsAre(1, 2));
  place->attach(second.storage());
  EXPECT_THAT(row.to_vector<float>(), ElementsAre(4));
  EXPECT_EQ(second.storage().use_count(), 2);
  place->detach();
  EXPECT_EQ(second.storage().use_count(), 1);
  EXPECT_THROW(t.to_vector<float>(), UsageError);
  EXPECT_THROW(place->attach(Tensor::zeros({1}).storage()), UsageError);
}

TEST(Tensor, WrongUseSaysWhatCame) {
  const Tensor t = counting({2, 3});
  EXPECT_THAT([&] { t.data<int32_t>(); },
              ThrowsMessage<UsageError>(HasSubstr("asked for i32, but the tensor is f32[2, 3]")));
  EXPECT_THAT(
      [&] { t.narrow(1, 2, 2); },
      ThrowsMessage<UsageError>(HasSubstr("2 elements from element 2 on lie outside axis 1")));
  EXPECT_THAT([&] { t.select(2, 0); },
              ThrowsMessage<UsageError>(HasSubstr("axis 2 is out of range")));
  EXPECT_THAT([&] { t.item(); }, ThrowsMessage<UsageError>(HasSubstr("exactly one element")));
  EXPECT_THAT([] { Tensor().raw(); }, ThrowsMessage<UsageError>(HasSubstr("undefined tensor")));
  EXPECT_THAT([&] { Tensor::from(std::vector<float>{1}, {2}); },
              ThrowsMessage<UsageError>(HasSubstr("1 values for shape [2]")));
}

}  // namespace
}  // namespace lockstep
