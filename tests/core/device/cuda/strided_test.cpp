#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaStrided : public CudaTest {};

// Shape and strides of a copy's target and source. `offset` is that of both first elements.
struct Layout {
  const char* what;
  Shape shape;
  Shape dst, src;  // strides
  int64_t offset = 0;
};
const Layout kLayouts[] = {
    {"dense", {1000}, {1}, {1}},
    {"dense, at odd addresses", {1003}, {1}, {1}, 1},
    {"dense in several dimensions", {3, 5, 7}, {35, 7, 1}, {35, 7, 1}},
    {"one element", {1}, {1}, {1}},
    {"a scalar", {}, {}, {}},
    {"empty", {3, 0, 2}, {2, 2, 1}, {2, 2, 1}},
    {"aligned slices", {9, 32}, {64, 1}, {48, 1}},
    {"slices for words of 8 bytes or fewer", {9, 30}, {30, 1}, {62, 1}, 2},
    {"odd slices", {9, 31}, {31, 1}, {33, 1}, 1},
    {"every other element", {50}, {2}, {3}},
    {"an array for all rows", {6, 20}, {20, 1}, {0, 1}},
    {"a number for each row", {6, 20}, {20, 1}, {1, 0}},
    {"one number", {6, 20}, {20, 1}, {0, 0}},
    {"heads: [B, T, H, D] to [B, H, T, D]", {2, 3, 5, 16}, {240, 80, 16, 1}, {240, 16, 48, 1}},
    {"a small transposition", {7, 9}, {9, 1}, {1, 7}},
    {"whole tiles", {64, 96}, {96, 1}, {1, 64}},
    {"broken tiles", {33, 65}, {65, 1}, {1, 33}, 1},
    {"a transposed target", {40, 50}, {1, 40}, {50, 1}},
    {"both transposed", {40, 50}, {1, 40}, {1, 40}},
    {"transpositions in a batch", {3, 40, 50}, {2000, 50, 1}, {2000, 1, 40}},
    {"outer dimensions swapped with the last", {20, 3, 40}, {120, 40, 1}, {1, 20, 60}},
    {"transposed and sliced", {2, 20, 3, 40}, {4800, 240, 80, 1}, {2400, 1, 800, 20}},
    {"eight dimensions",
     {2, 3, 2, 2, 2, 2, 3, 2},
     {288, 96, 48, 24, 12, 6, 2, 1},
     {1, 2, 6, 12, 24, 48, 96, 288}},
};

int64_t reach(const Shape& shape, const Shape& strides) {
  int64_t last = 0;
  for (int d = 0; d < shape.size(); ++d) last += (shape[d] - 1) * strides[d];
  return std::max<int64_t>(last + 1, 1);
}

// Numbers that every dtype holds, apart from fractions: conversions cut them off.
template <class T>
std::vector<T> numbers(int64_t n, uint32_t site) {
  std::vector<T> x;
  for (float v : random<float>(n, site, -0.9f, 100.0f))
    x.push_back(std::is_integral_v<T> ? static_cast<T>(std::max(0.0f, v)) : static_cast<T>(v));
  return x;
}

// std::vector<bool> has no elements in memory, so bytes stand for bool.
struct Boolean {};
template <class T>
using Stored = std::conditional_t<std::is_same_v<T, Boolean>, uint8_t, T>;
template <class T>
constexpr DType tag() {
  if constexpr (std::is_same_v<T, Boolean>)
    return DType::boolean;
  else
    return dtype_of<T>();
}
template <class T>
std::vector<Stored<T>> contents(int64_t n, uint32_t site) {
  auto x = numbers<Stored<T>>(n, site);
  if constexpr (std::is_same_v<T, Boolean>)
    for (uint8_t& v : x) v = v % 3 == 0;
  return x;
}

template <class To, class From>
void check_copy(const Layout& l) {
  SCOPED_TRACE(str(l.what, ": ", tag<From>(), " to ", tag<To>()));
  const Twin<Stored<From>> src(contents<From>(reach(l.shape, l.src), 1), l.offset);
  const Twin<Stored<To>> dst(contents<To>(reach(l.shape, l.dst), 2), l.offset);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.copy(q, {dst.on(d), tag<To>(), l.shape, l.dst}, {src.on(d), tag<From>(), l.shape, l.src});
  });
  dst.expect_equal();
}

// Calls f(T{}) for every type of element.
template <class F>
void for_types(const F& f) {
  f(float{});
  f(BFloat16{});
  f(Float16{});
  f(int64_t{});
  f(int32_t{});
  f(uint8_t{});
  f(Boolean{});
}

TEST_F(CudaStrided, CopiesOfEveryLayout) {
  for (const Layout& l : kLayouts)
    for_types([&](auto type) { check_copy<decltype(type), decltype(type)>(l); });
}

TEST_F(CudaStrided, ConversionsBetweenAllDtypes) {
  for (const Layout& l : kLayouts)
    for_types([&](auto to) {
      for_types([&](auto from) { check_copy<decltype(to), decltype(from)>(l); });
    });
}

// More tiles, and more words, than the grid has blocks and threads.
TEST_F(CudaStrided, LongCopies) {
  const int64_t n = 2100;
  const auto x = random_twin<uint8_t>(n * n, 1, 0, 200), y = random_twin<uint8_t>(n * n, 2, 0, 200),
             z = random_twin<uint8_t>(n * n, 3, 0, 200);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.copy(q, y.view(d, {n, n}, {n, 1}), x.view(d, {n, n}, {1, n}));
    k.copy(q, z.view(d, {n, n / 2}, {n, 2}), x.view(d, {n, n / 2}, {n, 2}, 1));
  });
  y.expect_equal();
  z.expect_equal();
}

TEST_F(CudaStrided, ASourceBroadcastsToItsTarget) {
  const auto row = random_twin<float>(10, 1), column = random_twin<float>(6, 2),
             y = random_twin<float>(60, 3), z = random_twin<float>(60, 4);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.copy(q, y.view(d, {6, 10}, {10, 1}), row.view(d, {10}, {1}));
    k.copy(q, z.view(d, {6, 10}, {10, 1}), column.view(d, {6, 1}, {1, 1}));
  });
  y.expect_equal();
  z.expect_equal();
}

template <class To, class From>
void check_values(const std::vector<From>& values) {
  SCOPED_TRACE(str(dtype_of<From>(), " to ", dtype_of<To>()));
  const int64_t n = static_cast<int64_t>(values.size());
  const Twin<From> src(values);
  const Twin<To> dst(std::vector<To>(values.size(), To(1)));
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.copy(q, dst.view(d, {n}, {1}), src.view(d, {n}, {1}));
  });
  dst.expect_equal();
}

TEST_F(CudaStrided, ConversionsRoundToNearestEven) {
  auto x = random<float>(5000, 1, -3.0f, 3.0f);
  for (float v : {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.00390625f, 1.01171875f, 65519.9f,
                  65520.0f, 3.4e38f, 6e-8f, 2.98e-8f, -1e-7f, 1.00048828125f, 1.00146484375f})
    x.push_back(v);
  check_values<BFloat16>(x);
  check_values<Float16>(x);
  std::vector<BFloat16> bf16;
  std::vector<Float16> f16;
  for (float v : x) bf16.emplace_back(v);
  for (float v : x) f16.emplace_back(v);
  check_values<float>(bf16);
  check_values<Float16>(bf16);
  check_values<float>(f16);
  check_values<BFloat16>(f16);
  const std::vector<int64_t> whole = {0,
                                      -1,
                                      16777217,
                                      -16777219,
                                      70000,
                                      (int64_t{1} << 53) + 1,
                                      std::numeric_limits<int64_t>::max(),
                                      std::numeric_limits<int64_t>::min()};
  check_values<float>(whole);
  check_values<BFloat16>(whole);
  check_values<Float16>(whole);
}

// The CPU refuses values that the target cannot hold. The device has nobody to tell.
template <class To, class From>
void check_nearest(std::vector<From> values, const std::vector<To>& want) {
  SCOPED_TRACE(str(dtype_of<From>(), " to ", dtype_of<To>()));
  const Tensor src = Tensor::from(values, {static_cast<int64_t>(values.size())}, kCuda);
  const Tensor dst = Tensor::zeros(src.shape(), dtype_of<To>(), kCuda);
  kernels(kCuda).copy(current_queue(kCuda), {dst.raw(), dst.dtype(), dst.shape(), dst.strides()},
                      {src.raw(), src.dtype(), src.shape(), src.strides()});
  EXPECT_EQ(dst.to_vector<To>(), want);
}

TEST_F(CudaStrided, AValueOutOfRangeBecomesTheNearest) {
  const auto low32 = std::numeric_limits<int32_t>::min(),
             high32 = std::numeric_limits<int32_t>::max();
  const auto low64 = std::numeric_limits<int64_t>::min(),
             high64 = std::numeric_limits<int64_t>::max();
  const std::vector<float> floats = {NAN, INFINITY, -INFINITY, 3e9f, -3e9f, 1e19f, -1e19f, -1.0f};
  check_nearest<int32_t>(floats, {0, high32, low32, high32, low32, high32, low32, -1});
  check_nearest<int64_t>(floats, {0, high64, low64, 3000000000, -3000000000, high64, low64, -1});
  check_nearest<uint8_t>(floats, {0, 255, 0, 255, 0, 255, 0, 0});
  check_nearest<int32_t>(std::vector<int64_t>{high64, low64, 5}, {high32, low32, 5});
  check_nearest<uint8_t>(std::vector<int32_t>{-1, 256, 255}, {0, 255, 255});
  check_nearest<uint8_t>(std::vector<Float16>{Float16(-2.0f), Float16(300.0f)}, {0, 255});
}

template <class T>
void check_fill(const Layout& l, double value) {
  SCOPED_TRACE(str(l.what, ": ", tag<T>(), " ", value));
  const Twin<Stored<T>> dst(contents<T>(reach(l.shape, l.dst), 2), l.offset);
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.fill(q, {dst.on(d), tag<T>(), l.shape, l.dst}, value);
  });
  dst.expect_equal();
}

TEST_F(CudaStrided, FillsOfEveryLayoutAndDtype) {
  for (const Layout& l : kLayouts)
    for (double value : {0.0, 1.0, 77.0})
      for_types([&](auto type) { check_fill<decltype(type)>(l, value); });
  for (double value : {-0.0, 0.1, -1e30, 1e-42}) {
    check_fill<float>(kLayouts[0], value);
    check_fill<BFloat16>(kLayouts[0], value);
    check_fill<Float16>(kLayouts[1], value);
  }
}

TEST_F(CudaStrided, BytesTravelBetweenHostAndDevice) {
  const auto x = random<float>(3001, 1);
  std::vector<float> back(x.size());
  const Tensor a = Tensor::empty({3001}, DType::f32, kCuda),
               b = Tensor::empty({3001}, DType::f32, kCuda);
  const Queue& q = current_queue(kCuda);
  const int64_t bytes = a.bytes();
  kernels(kCuda).copy_bytes(q, a.raw(), x.data(), bytes);
  kernels(kCuda).copy_bytes(q, b.raw(), a.raw(), bytes);
  kernels(kCuda).copy_bytes(q, back.data(), b.raw(), bytes);
  kernels(kCuda).copy_bytes(q, nullptr, nullptr, 0);
  EXPECT_EQ(back, x);
}

}  // namespace
}  // namespace lockstep::testing
