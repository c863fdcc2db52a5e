// Shapes, offsets and values at the edge of what can be, and beyond.
#include <functional>
#include <limits>
#include <numeric>

#include <gmock/gmock.h>

#include "core/tensor/tensor.h"
#include "tests/support/error_of.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kMost = std::numeric_limits<int64_t>::max(),
                  kLeast = std::numeric_limits<int64_t>::min();
constexpr int64_t kHuge = int64_t{1} << 31;

// 0, 1, 2, …
Tensor counting(const Shape& shape) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0.0f);
  return Tensor::from(values, shape);
}

TEST(Limits, MoreBytesThanAnIntegerCountsAreRefused) {
  EXPECT_THAT(error_of([] {
                Tensor::empty({kHuge, kHuge});
              }),
              HasSubstr("f32[2147483648, 2147483648] has more bytes than"));
  EXPECT_THAT(error_of([] {
                Tensor::zeros({kHuge, kHuge / 4, 8}, DType::i64);
              }),
              HasSubstr("too many elements"));
  EXPECT_THAT(error_of([] {
                Tensor::empty({0, kHuge, kHuge, 4});
              }),
              HasSubstr("too many elements"));
  EXPECT_THAT(error_of([] {
                Tensor::empty({kHuge, kHuge, 4, 0});
              }),
              HasSubstr("too many elements"));
  EXPECT_THAT(error_of([] { counting({1}).expand({kHuge, kHuge}); }), HasSubstr("more bytes"));
  EXPECT_THAT(error_of([] {
                Tensor::wrap(Storage::absent(8, kCpu, "away"), {kHuge, kHuge}, DType::f32);
              }),
              HasSubstr("more bytes"));
  EXPECT_THAT(error_of([] {
                Tensor::empty({kHuge, kHuge}, DType::u8);
              }),
              HasSubstr("memory"))
      << "counted, but not there";
}

TEST(Limits, RangesOutsideAnAxisAreRefused) {
  const Tensor t = counting({4, 3});
  for (const auto& [start, length] : std::vector<std::pair<int64_t, int64_t>>{{1, kMost},
                                                                              {kMost, 1},
                                                                              {kMost, kMost},
                                                                              {-1, 1},
                                                                              {0, -1},
                                                                              {kLeast, kLeast},
                                                                              {5, 0},
                                                                              {3, 2}})
    EXPECT_THAT(error_of([&] { t.narrow(0, start, length); }), StartsWith("[narrow] "))
        << start << ", " << length;
  EXPECT_EQ(t.narrow(0, 4, 0).shape(), (Shape{0, 3}));
  for (const int64_t index : {int64_t{4}, int64_t{-1}, kMost, kLeast})
    EXPECT_THAT(error_of([&] { t.select(0, index); }), StartsWith("[select] index ")) << index;
}

TEST(Limits, StridedViewsStayWithinTheirStorage) {
  const Tensor t = counting({12}).narrow(0, 4, 4);  // elements 4 to 7 of 12
  EXPECT_THAT(t.as_strided({2, 2}, {4, 1}, -2).to_vector<float>(), ElementsAre(2, 3, 6, 7));
  EXPECT_THAT(t.as_strided({3}, {0}, 7).to_vector<float>(), ElementsAre(11, 11, 11));
  EXPECT_EQ(t.as_strided({0}, {kMost}, 8).numel(), 0);
  EXPECT_EQ(t.as_strided({0, 5}, {1, kMost}, 0).narrow(1, 4, 1).strides(), (Shape{5, 1}));
  struct Wrong {
    Shape shape, strides;
    int64_t offset;
  };
  for (const Wrong& w : std::vector<Wrong>{{{4}, {1}, 1000000},
                                           {{4}, {1}, 5},
                                           {{4}, {1}, -5},
                                           {{5}, {2}, 0},
                                           {{2, 5}, {1, kMost}, 0},
                                           {{3, 3}, {kMost / 2, kMost / 2}, 0},
                                           {{1}, {1}, kMost},
                                           {{1}, {1}, kLeast},
                                           {{2}, {-1}, 0},
                                           {{2, 2}, {1}, 0},
                                           {{-1}, {1}, 0}})
    EXPECT_THAT(error_of([&] { t.as_strided(w.shape, w.strides, w.offset); }),
                AnyOf(StartsWith("[as_strided]"), StartsWith("[shape]")))
        << w.shape << w.strides << w.offset;
}

TEST(Limits, StoragesAreNotLeft) {
  const auto storage = Tensor::zeros({4}).storage();
  EXPECT_THROW(Tensor::wrap(storage, {1}, DType::f32, kMost / 4 * 4), UsageError);
  EXPECT_THROW(Tensor::wrap(storage, {1}, DType::f32, -4), UsageError);
  EXPECT_THROW(Tensor::wrap(nullptr, {1}, DType::f32), UsageError);
  const auto place = Storage::absent(8, kCpu, "away");
  EXPECT_THROW(place->attach(storage, std::numeric_limits<size_t>::max()), UsageError);
  EXPECT_THROW(place->attach(Storage::absent(8, kCpu, "away, too")), UsageError);
  EXPECT_THROW(place->attach(place), UsageError);
}

TEST(Limits, ShapesThatCannotBeAreRefused) {
  const Tensor t = counting({2, 3});
  for (const Shape& shape : {Shape{-2, -3}, Shape{-1, -1}, Shape{-1, kHuge, kHuge, 4}, Shape{-1, 0},
                             Shape{7}, Shape{-1, -2, -1}}) {
    EXPECT_THROW(t.reshape(shape), UsageError) << shape;
    EXPECT_THROW(t.view(shape), UsageError) << shape;
  }
  EXPECT_THROW(t.expand({-1, 2, 3}), UsageError);
  EXPECT_THROW(t.unsqueeze(4), UsageError);
  EXPECT_THROW(Shape().back(), UsageError);
  EXPECT_THROW(Shape({1}).erase(1), UsageError);
  EXPECT_THROW(Shape({1}).insert(2, 1), UsageError);
}

TEST(Limits, AnUndefinedTensorHasNoViewsAndNoValues) {
  const Tensor none;
  const std::vector<std::pair<std::string, std::function<void()>>> calls{
      {"view", [&] { none.view({0}); }},
      {"reshape", [&] { none.reshape({0}); }},
      {"flatten", [&] { none.flatten(); }},
      {"transpose", [&] { none.transpose(0, 0); }},
      {"narrow", [&] { none.narrow(0, 0, 0); }},
      {"select", [&] { none.select(0, 0); }},
      {"unsqueeze", [&] { none.unsqueeze(0); }},
      {"expand", [&] { none.expand({2}); }},
      {"as_strided", [&] { none.as_strided({}, {}, 0); }},
      {"clone", [&] { none.clone(); }},
      {"contiguous", [&] { none.contiguous(); }},
      {"to", [&] { none.to(DType::f32); }},
      {"to", [&] { none.to(kCpu); }},
      {"copy_", [&] { none.copy_(none); }},
      {"copy_ from", [&] { Tensor::zeros({1}).copy_(none); }},
      {"fill_", [&] { none.fill_(1); }},
      {"zero_", [&] { none.zero_(); }},
      {"to_vector", [&] { none.to_vector<float>(); }},
      {"to_vector<bool>", [&] { none.to_vector<bool>(); }},
      {"item", [&] { none.item(); }},
      {"data", [&] { none.data<float>(); }},
      {"span", [&] { none.span<float>(); }},
      {"device", [&] { none.device(); }},
      {"size", [&] { none.size(0); }},
      {"mark_changed", [&] { none.mark_changed("test"); }},
  };
  for (const auto& [name, call] : calls) EXPECT_THROW(call(), UsageError) << name;
}

TEST(Limits, WhateverIsNotZeroIsTrue) {
  EXPECT_THAT(Tensor::from(std::vector<float>{0.5f, 0, -0.25f, 256}, {4}).to_vector<bool>(),
              ElementsAre(true, false, true, true));
  EXPECT_THAT(Tensor::from(std::vector<int64_t>{256, 0, int64_t{1} << 40}, {3}).to_vector<bool>(),
              ElementsAre(true, false, true));
  EXPECT_THAT(Tensor::full({2}, 0.5, DType::bf16).transpose(0, 0).to_vector<bool>(),
              ElementsAre(true, true));
  EXPECT_TRUE(Tensor::zeros({0}).to_vector<bool>().empty());
}

TEST(Limits, ElementsThatShareMemoryAreNotWrittenTo) {
  const Tensor one = Tensor::zeros({1});
  EXPECT_THAT(error_of([&] { one.expand({4}).copy_(counting({4})); }),
              HasSubstr("[copy_] several elements of f32[4] with strides [0] share"));
  EXPECT_THAT(error_of([&] {
                one.expand({2, 3}).fill_(1);
              }),
              HasSubstr("[fill_] several elements"));
  EXPECT_THAT(error_of([&] { one.expand({2, 3}).zero_(); }), HasSubstr("several elements"));
  EXPECT_THAT(error_of([&] {
                counting({4}).as_strided({2, 3}, {1, 1}, 0).copy_(counting({2, 3}));
              }),
              HasSubstr("several elements"));
  EXPECT_EQ(one.item(), 0);
  // Strides of 0 along one element, transposed and cut tensors are fine.
  one.expand({1, 1}).fill_(3);
  EXPECT_EQ(one.item(), 3);
  const Tensor t = counting({3, 4, 2});
  t.transpose(0, 2).narrow(1, 1, 2).fill_(-1);
  EXPECT_THAT(t.select(0, 0).to_vector<float>(), ElementsAre(0, 1, -1, -1, -1, -1, 6, 7));
  t.as_strided({2, 2}, {12, 3}, 1).fill_(9);
  EXPECT_EQ(t.flatten().narrow(0, 16, 1).item(), 9);
}

TEST(Limits, ACopyMayOverlapItsSource) {
  const int64_t n = 200000;
  const Tensor forward = counting({n}), backward = counting({n});
  forward.narrow(0, 1, n - 1).copy_(forward.narrow(0, 0, n - 1));
  backward.narrow(0, 0, n - 1).copy_(backward.narrow(0, 1, n - 1));
  const auto up = forward.to_vector<float>(), down = backward.to_vector<float>();
  for (size_t i = 1; i < up.size(); ++i) {
    ASSERT_EQ(up[i], static_cast<float>(i - 1));
    ASSERT_EQ(down[i - 1], static_cast<float>(i));
  }
  const Tensor square = counting({3, 3});
  square.copy_(square.transpose(0, 1));
  EXPECT_THAT(square.to_vector<float>(), ElementsAre(0, 3, 6, 1, 4, 7, 2, 5, 8));
  square.copy_(square);
  EXPECT_EQ(square.flatten().narrow(0, 1, 1).item(), 3);
}

// Where several threads look, too.
TEST(Limits, ALargeCopyThatIsRefusedWritesNothing) {
  const int64_t n = 300000;
  for (const DType from : {DType::f32, DType::i64}) {
    const Tensor source = Tensor::full({n}, 1, from), target = Tensor::full({n}, 7, DType::u8);
    source.narrow(0, n - 1, 1).fill_(256);
    EXPECT_THAT(error_of([&] { target.copy_(source); }),
                HasSubstr("256 is not a value of u8; nothing was written"));
    EXPECT_THAT(target.to_vector<uint8_t>(), ::testing::Each(7));
  }
}

TEST(Limits, AnIntegerIsFilledWithItsOwnValuesOnly) {
  const std::vector<std::pair<DType, double>> wrong{
      {DType::u8, 256},     {DType::u8, -1},       {DType::i32, 0x1p31},
      {DType::i64, 0x1p63}, {DType::i64, 0.5},     {DType::i32, std::nan("")},
      {DType::i64, -1e300}, {DType::i32, INFINITY}};
  for (const auto& [dtype, value] : wrong)
    EXPECT_THAT(error_of([dtype = dtype, value = value] { Tensor::full({2}, value, dtype); }),
                HasSubstr("is not a value of "))
        << dtype << value;
  EXPECT_EQ(Tensor::full({1}, -0x1p63, DType::i64).data<int64_t>()[0], kLeast);
  EXPECT_EQ(Tensor::full({1}, 255, DType::u8).data<uint8_t>()[0], 255);
}

TEST(Limits, WhatNoIntegerHoldsIsNotConvertedToOne) {
  const std::vector<std::pair<DType, float>> wrong{
      {DType::u8, 256},       {DType::u8, -1},        {DType::i32, 0x1p31f},
      {DType::i64, 0x1p63f},  {DType::i32, -0x1p32f}, {DType::u8, std::nanf("")},
      {DType::i64, -0x1p64f}, {DType::i32, INFINITY}};
  for (const auto& [dtype, value] : wrong)
    for (const DType from : {DType::f32, DType::bf16}) {
      const Tensor source = counting({3}).to(from), target = Tensor::full({3}, 7, dtype);
      source.narrow(0, 2, 1).fill_(value);
      EXPECT_THAT(error_of([&] { target.copy_(source); }), HasSubstr("is not a value of "))
          << dtype << value;
      EXPECT_THAT(error_of([&, dtype = dtype] {
                    source.expand({2, 3}).to(dtype);
                  }),
                  HasSubstr("is not a value of "))
          << dtype << value;
      EXPECT_THAT(target.to_vector<int64_t>(), ElementsAre(7, 7, 7)) << "a part was written";
    }
  struct Wide {
    DType from, to;
    double value;
  };
  for (const Wide& w : std::vector<Wide>{{DType::i64, DType::i32, 0x1p31},
                                         {DType::i64, DType::i32, -0x1p31 - 1},
                                         {DType::i64, DType::u8, 256},
                                         {DType::i64, DType::u8, -1},
                                         {DType::i32, DType::u8, 256},
                                         {DType::i32, DType::u8, -1}}) {
    const Tensor source = counting({3}).to(w.from), target = Tensor::full({3}, 7, w.to);
    source.narrow(0, 2, 1).fill_(w.value);
    EXPECT_THAT(
        error_of([&] { target.copy_(source); }),
        HasSubstr(str("[copy] ", static_cast<int64_t>(w.value), " is not a value of ", w.to)));
    EXPECT_THAT(target.to_vector<int64_t>(), ElementsAre(7, 7, 7)) << "a part was written";
    EXPECT_THAT(source.to(DType::boolean).to(w.to).to_vector<int64_t>(), ElementsAre(0, 1, 1));
  }
  EXPECT_THAT(Tensor::from(std::vector<int64_t>{-(int64_t{1} << 31), (int64_t{1} << 31) - 1}, {2})
                  .to_vector<int32_t>(),
              ElementsAre(-0x1p31, 0x1p31 - 1));
  EXPECT_THAT(Tensor::from(std::vector<int64_t>{0, 255}, {2}).to_vector<uint8_t>(),
              ElementsAre(0, 255));
  // Fractions are cut off.
  EXPECT_THAT(Tensor::from(std::vector<float>{-0.75f, 255.5f}, {2}).to_vector<uint8_t>(),
              ElementsAre(0, 255));
  EXPECT_THAT(Tensor::from(std::vector<float>{-0x1p31f, 2.5f}, {2}).to_vector<int32_t>(),
              ElementsAre(-0x1p31, 2));
  EXPECT_THAT(Tensor::from(std::vector<float>{-0x1p63f}, {1}).to_vector<int64_t>(),
              ElementsAre(kLeast));
}

}  // namespace
}  // namespace lockstep
