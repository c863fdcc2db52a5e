#include "ddp/buckets.h"

#include <set>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"

namespace lockstep::ddp {
namespace {

using ::testing::ElementsAre;

TEST(BucketLayout, FillsInOrderAndClosesTheFirstBucketEarly) {
  EXPECT_THAT(make_layout({3, 2, 1, 0}, {100, 100, 100, 100}, 100, 250),
              ElementsAre(ElementsAre(3), ElementsAre(1, 2), ElementsAre(0)));
}

TEST(BucketLayout, NeverSplitsAParameterThatIsLargerThanTheLimit) {
  EXPECT_THAT(make_layout({0, 1, 2}, {10, 1000, 10}, 100, 100),
              ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2)));
}

TEST(BucketLayout, SpellsEqualBucketsEqually) {
  EXPECT_EQ(make_layout({1, 0}, {4, 4}, 100, 100), make_layout({0, 1}, {4, 4}, 100, 100));
}

TEST(Bucket, ViewsHaveTheParametersShapesAndDoNotOverlap) {
  const std::vector<Parameter> parameters{
      {"a", Tensor::zeros({3, 5})}, {"b", Tensor::zeros({7})}, {"empty", Tensor::zeros({0, 2})}};
  const auto group = comm::create("local", std::make_shared<comm::HashStore>(), 0, 1);
  Bucket bucket({0, 1, 2}, parameters, *group);
  // Where micro-batches wait; the last one's gradients lie in the total.
  const SumSlots::Place total{.slot = SumSlots::kTotal}, first{.slot = 0}, third{.slot = 2};
  for (const SumSlots::Place& place : {total, first, third}) {
    std::set<const void*> seen;
    for (size_t k = 0; k < 3; ++k) {
      const Tensor view = bucket.target(k, place);
      EXPECT_EQ(view.shape(), parameters[k].shape());
      EXPECT_TRUE(view.is_contiguous());
      for (int64_t i = 0; i < view.numel(); ++i)
        EXPECT_TRUE(seen.insert(view.data<float>() + i).second);
    }
  }
  EXPECT_EQ(bucket.target(0, total).raw(), bucket.total_of(0).raw());
  EXPECT_NE(bucket.target(0, first).raw(), bucket.target(0, third).raw());
}

}  // namespace
}  // namespace lockstep::ddp
