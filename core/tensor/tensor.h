// Tensor: a value of n dimensions. Copying a Tensor copies the handle, not the elements. Views
// share storage. It knows nothing of gradients (core/autograd) or ranks (comm).
//
// Not synchronised. Two threads may read one tensor, or use two tensors of one storage that do not
// overlap.
//
// On an undefined tensor, every call except defined() and the plain getters throws UsageError. So
// does a shape whose elements or bytes do not fit an int64.
#pragma once

#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/shape.h"
#include "core/device/device.h"
#include "core/tensor/storage.h"

namespace lockstep {

class Tensor {
 public:
  Tensor() = default;  // undefined: no storage, defined() is false

  // The contents are undefined, zero, or `value`.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = kCpu);
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = kCpu);
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32,
                     Device device = kCpu);
  // On the CPU, in memory that `device` reads and writes without a copy in between (pinned), for
  // copy_later(). Undefined contents.
  static Tensor pinned(const Shape& shape, DType dtype, Device device);
  // Copies host values; values.size() must equal shape.numel().
  template <typename T>
  static Tensor from(std::span<const T> values, const Shape& shape, Device device = kCpu);
  template <typename T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, Device device = kCpu) {
    return from(std::span<const T>(values), shape, device);
  }
  // A view of memory that is owned elsewhere.
  static Tensor wrap(std::shared_ptr<Storage> storage, const Shape& shape, DType dtype,
                     int64_t offset_bytes = 0);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // in elements
  int dim() const { return shape_.size(); }
  int64_t size(int axis) const;  // a negative axis counts from the end
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const;
  bool is_contiguous() const;
  const std::shared_ptr<Storage>& storage() const { return storage_; }

  // Device address of the first element. data<T>() checks T against dtype().
  void* raw() const;
  template <typename T>
  T* data() const {
    check_type(dtype_of<T>());
    return static_cast<T*>(raw());
  }
  // The elements of a contiguous host tensor.
  template <typename T>
  std::span<T> span() const {
    check_host_contiguous();
    return {data<T>(), static_cast<size_t>(numel_)};
  }
  // The elements in row-major order, copied to the host and converted to T.
  template <typename T>
  std::vector<T> to_vector() const;
  // The value of a tensor with one element.
  double item() const;

  // Views: no copy. One dimension of `shape` may be -1. view() needs a compatible layout; reshape()
  // copies if the layout is not compatible.
  Tensor view(const Shape& shape) const;
  Tensor reshape(const Shape& shape) const;
  Tensor flatten() const { return reshape({numel_}); }
  Tensor transpose(int axis_a, int axis_b) const;
  Tensor narrow(int axis, int64_t start, int64_t length) const;
  Tensor select(int axis, int64_t index) const;  // drops the axis
  Tensor unsqueeze(int axis) const;
  Tensor expand(const Shape& shape) const;  // repeats dimensions of size 1 by stride 0
  // Any view of the storage, with strides of 0 or more and an offset from this view's start. Throws
  // UsageError if an element would lie outside the storage.
  Tensor as_strided(const Shape& shape, const Shape& strides, int64_t offset_elements) const;

  // Copies.
  Tensor clone() const;       // contiguous
  Tensor contiguous() const;  // *this if it is contiguous
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;

  // In place. All but copy_later() return *this, and all count as a change (mark_changed). copy_
  // broadcasts and converts; the source may overlap this tensor. copy_ and to() cut fractions off
  // when they convert to integers.
  //
  // Both throw UsageError, and change nothing, for:
  // - a value that an integer dtype cannot hold. On a CUDA device, whose kernels cannot say so,
  //   copy_ and to() store the nearest value instead, and 0 for a NaN.
  // - a tensor whose elements share memory, as expand() makes them. Write before expanding, or
  //   write to a clone().
  const Tensor& copy_(const Tensor& source) const;
  // As copy_, but between dense tensors of one dtype, and without waiting: the copy is queued on
  // the device's current queue (of two devices, this tensor's). Host memory must be pinned, and
  // neither side may be changed until the event. Both sides' memory is kept until then.
  Event copy_later(const Tensor& source) const;
  const Tensor& fill_(double value) const;
  const Tensor& zero_() const { return fill_(0); }

  // Whether some element of `other`, on the same device, may lie in this tensor's memory. Exactly
  // the same elements do not count. Memory between elements does.
  bool overlaps(const Tensor& other) const;

  // Says that the values were changed through raw(), data() or span(). Backward then refuses them
  // instead of the values that forward saw. `by`: a string literal that names the caller.
  void mark_changed(const char* by) const;

 private:
  void check_defined(std::string_view call) const;
  void check_writable(std::string_view call) const;
  void write(const Tensor& from) const;
  Event queue_copy(const Tensor& dense) const;
  Tensor viewed(std::string_view call, const Shape& shape, const Shape& strides,
                int64_t offset) const;
  void check_type(DType wanted) const;
  void check_host_contiguous() const;

  std::shared_ptr<Storage> storage_;
  Shape shape_;
  Shape strides_;
  int64_t offset_ = 0;  // in elements
  int64_t numel_ = 0;
  DType dtype_ = DType::f32;
};

// Bytes of a dense tensor. Throws UsageError if they do not fit an int64.
int64_t byte_count(const Shape& shape, DType dtype);

// Normalises a negative axis and checks its range. `op` names the caller in the message.
int normalize_axis(int axis, int dims, std::string_view op);

// "f32[2, 3]": the type, not the values.
std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

}  // namespace lockstep
