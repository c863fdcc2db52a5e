// Helpers of the CUDA kernels' tests: the same inputs on the CPU and on a device, and comparison of
// what both kernels made of them.
#pragma once

#include <type_traits>

#include "core/device/cuda_device.h"
#include "core/tensor/tensor.h"
#include "tests/core/device/reference.h"

namespace lockstep::testing {

inline constexpr Device kCuda{DeviceType::cuda, 0};

// The base of tests that need a device.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device_count(DeviceType::cuda) == 0) GTEST_SKIP() << "no CUDA device: " << cuda::why_none();
  }
};

// Calls f(kernels, queue, device) for the CPU, and then for the device.
template <class F>
void on_both(const F& f) {
  for (Device device : {kCpu, kCuda}) f(kernels(device), current_queue(device), device);
}

// The difference that comparison allows, relative to the larger of |the CPU's value| and `floor`.
// 0: both have the same bits, or are NaN.
struct Tolerance {
  double relative = 0.0;
  double floor = 1.0;
};

// One array on both devices, with the same contents. Elements before and behind it are compared,
// too, so that a kernel that writes there is found.
template <class T>
class Twin {
 public:
  // The array starts `shift` elements behind an address that is aligned for every load.
  explicit Twin(std::vector<T> values, int64_t shift = 0)
      : start_(kMargin + shift), size_(static_cast<int64_t>(values.size())) {
    values.insert(values.begin(), static_cast<size_t>(start_), T(3));
    values.insert(values.end(), static_cast<size_t>(kMargin), T(3));
    const Shape shape{static_cast<int64_t>(values.size())};
    host_ = Tensor::from(values, shape);
    device_ = Tensor::from(values, shape, kCuda);
  }

  int64_t size() const { return size_; }
  T* on(Device device) const { return of(device).template data<T>() + start_; }
  // A view whose first element is `offset` elements behind the array's.
  StridedView view(Device device, const Shape& shape, const Shape& strides,
                   int64_t offset = 0) const {
    return {on(device) + offset, dtype_of<T>(), shape, strides};
  }

  void expect_equal(Tolerance allowed = {}) const {
    const std::vector<T> want = host_.to_vector<T>(), got = device_.to_vector<T>();
    int shown = 0;
    for (size_t i = 0; i < want.size() && shown < 5; ++i) {
      if (same(got[i], want[i], allowed)) continue;
      ADD_FAILURE() << "element " << static_cast<int64_t>(i) - start_ << " of " << size_
                    << ": the CPU has " << +shown_as(want[i]) << ", the device "
                    << +shown_as(got[i]);
      ++shown;
    }
  }

 private:
  static constexpr int64_t kMargin = 64;

  static auto shown_as(T x) {
    if constexpr (std::is_integral_v<T>)
      return x;
    else
      return static_cast<float>(x);
  }
  static bool same(T got, T want, Tolerance allowed) {
    if (std::memcmp(&got, &want, sizeof(T)) == 0) return true;
    if constexpr (std::is_integral_v<T>) return false;
    const double a = static_cast<float>(got), b = static_cast<float>(want);
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    if (allowed.relative == 0.0) return false;
    return std::abs(a - b) <= allowed.relative * std::max(allowed.floor, std::abs(b));
  }
  const Tensor& of(Device device) const { return device == kCpu ? host_ : device_; }

  Tensor host_, device_;
  int64_t start_, size_;
};

// A twin of n random values (tests/core/device/reference.h).
template <class T>
Twin<T> random_twin(int64_t n, uint32_t site, float low = -1.0f, float high = 1.0f,
                    int64_t shift = 0) {
  return Twin<T>(random<T>(n, site, low, high), shift);
}

// What one different rounding of a result of type T makes.
template <class T>
constexpr double one_rounding() {
  return std::is_same_v<T, BFloat16> ? 1.0 / 128 : std::is_same_v<T, Float16> ? 1.0 / 1024 : 0.0;
}

// Whether the CPU's kernels fuse multiplications with additions, as the device's do. Then both give
// the same bits where no elementary function is involved.
inline bool cpu_fuses() { return std::string_view(cpu_instruction_set()) != "generic"; }

}  // namespace lockstep::testing
