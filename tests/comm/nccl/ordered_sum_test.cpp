// Slices of several ranks are combined on a device as on the CPU, bit for bit.
#include "core/device/cuda/ordered_sum.h"

#include <gmock/gmock.h>

#include "comm/reduce/reduce_kernels.h"
#include "tests/conformance/reference.h"
#include "tests/support/devices.h"
#include "tests/support/error_of.h"

namespace lockstep::comm {
namespace {

using test::error_of;
using testing::HasSubstr;

cuda::SliceOrder order_of(const ReduceTree& tree) {
  std::vector<std::pair<int, int>> steps;
  for (const auto [left, right] : tree.steps()) steps.emplace_back(left, right);
  return {tree.ranks(), steps};
}

TEST(SliceOrder, IsAWalkOverTheSlices) {
  EXPECT_THAT(order_of(ReduceTree(7)).adds(), testing::ElementsAre(0, 1, 0, 2, 0, 1, 2));
  EXPECT_EQ(order_of(ReduceTree(7)).depth(), 3);
  EXPECT_THAT(cuda::SliceOrder(1, {}).adds(), testing::ElementsAre(0));
}

TEST(SliceOrder, RefusesWhatIsNoTree) {
  EXPECT_THAT(error_of([] {
                cuda::SliceOrder(3, {{0, 2}, {0, 1}});
              }),
              HasSubstr("expected the steps of a tree over 3 slices"));
  EXPECT_THAT(error_of([] { cuda::SliceOrder(3, {{0, 1}}); }), HasSubstr("a tree over 3 slices"));
  EXPECT_THAT(error_of([] { cuda::SliceOrder(0, {}); }), HasSubstr("expected 1 to"));
}

// Slices lie `stride` elements apart, and those but `own` beside each other.
template <class T>
void expect_bits(const ReduceTree& tree, ReduceOp op, int own, int64_t n, int64_t stride) {
  const Device device{DeviceType::cuda, 0};
  const DType dtype = dtype_of<T>();
  const int slices = tree.ranks();
  std::vector<Tensor> values;
  std::vector<const void*> sources;
  const Tensor others = Tensor::zeros({slices * stride}, dtype, device);
  Tensor mine;
  for (int s = 0, at = 0; s < slices; ++s) {
    values.push_back(test::tensor_of(test::values<T>(s, n)));
    sources.push_back(values.back().raw());
    if (s == own)
      mine = values.back().to(device);
    else
      others.narrow(0, at++ * stride, n).copy_(values.back().to(device));
  }
  const Tensor expected = Tensor::zeros({n}, dtype);
  void* const out = expected.raw();
  reduce_in_order(dtype, op, tree.steps(), sources, std::span<void* const>(&out, 1), n);
  const Tensor result = own >= 0 ? mine : Tensor::zeros({n}, dtype, device);
  cuda::combine_slices(current_queue(device), dtype, static_cast<cuda::SliceOp>(op), order_of(tree),
                       own, own >= 0 ? mine.raw() : nullptr, others.raw(), stride, result.raw(), n);
  EXPECT_EQ(
      std::memcmp(result.to(kCpu).raw(), expected.raw(), static_cast<size_t>(expected.bytes())), 0)
      << dtype << " " << name_of(op) << ", " << slices << " slices, own " << own << ", " << n;
}

TEST(CombineSlices, GivesTheCpusBits) {
  if (test::cuda_devices() == 0) GTEST_SKIP() << test::kNoDevice;
  for (const int slices : {1, 2, 3, 5, 8, 13})
    for (const int own : {-1, 0, slices - 1})
      for (const auto& [n, stride] : {std::pair<int64_t, int64_t>{1, 1}, {1009, 1024}, {96, 99}}) {
        const ReduceTree even(slices), uneven(3 * slices + 1, slices);
        expect_bits<float>(even, ReduceOp::sum, own, n, stride);
        expect_bits<float>(uneven, ReduceOp::sum, own, n, stride);
        expect_bits<BFloat16>(uneven, ReduceOp::sum, own, n, stride);
        expect_bits<Float16>(even, ReduceOp::product, own, n, stride);
      }
  const ReduceTree tree(40);  // more wait at a time
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max}) {
    expect_bits<float>(tree, op, 3, 200, 256);
    expect_bits<int64_t>(tree, op, 3, 200, 256);
    expect_bits<bool>(tree, op, 3, 200, 256);
  }
  for (const ReduceOp op : {ReduceOp::band, ReduceOp::bor, ReduceOp::bxor}) {
    expect_bits<int32_t>(tree, op, -1, 200, 256);
    expect_bits<uint8_t>(tree, op, -1, 200, 256);
    expect_bits<bool>(tree, op, -1, 200, 256);
  }
}

}  // namespace
}  // namespace lockstep::comm
