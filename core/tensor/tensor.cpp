#include "core/tensor/tensor.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <utility>

#include "core/device/capture.h"
#include "core/device/kernels.h"

namespace lockstep {
namespace {

StridedView strided(const Tensor& t) { return {t.raw(), t.dtype(), t.shape(), t.strides()}; }

// Replaces one -1 by the size that the number of elements implies.
Shape infer_dimension(const Shape& wanted, int64_t numel, std::string_view op) {
  Shape shape = wanted;
  int unknown = -1;
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] != -1) continue;
    check(unknown < 0, "[", op, "] only one dimension can be -1, got ", wanted);
    unknown = i;
    shape[i] = 1;
  }
  if (unknown >= 0) {
    const int64_t known = shape.numel();
    check(known > 0 && numel % known == 0, "[", op, "] cannot infer the -1 of ", wanted, " for ",
          numel, " elements");
    shape[unknown] = numel / known;
  }
  check(shape.numel() == numel, "[", op, "] shape ", wanted, " does not hold ", numel, " elements");
  return shape;
}

// Computes strides with which `shape` views the same elements in the same order. Returns false if
// there are none.
bool view_strides(const Shape& old_shape, const Shape& old_strides, const Shape& shape,
                  Shape& strides) {
  strides = shape;
  int64_t numel = old_shape.numel();
  if (numel == 0 || old_shape.empty()) {
    strides = shape.contiguous_strides();
    return true;
  }
  // Walks both shapes backwards. A dense run of old dimensions can be divided anew.
  int view_axis = shape.size() - 1;
  int64_t base = old_strides.back();
  int64_t old_numel = 1, view_numel = 1;
  for (int axis = old_shape.size() - 1; axis >= 0; --axis) {
    old_numel *= old_shape[axis];
    const bool run_ends =
        axis == 0 || (old_shape[axis - 1] != 1 && old_strides[axis - 1] != old_numel * base);
    if (!run_ends) continue;
    while (view_axis >= 0 && (view_numel < old_numel || shape[view_axis] == 1)) {
      strides[view_axis] = view_numel * base;
      view_numel *= shape[view_axis];
      --view_axis;
    }
    if (view_numel != old_numel) return false;
    if (axis > 0) {
      base = old_strides[axis - 1];
      old_numel = view_numel = 1;
    }
  }
  return view_axis == -1;
}

// Computes one past the last element that a view reaches, counted from its first element. Returns
// false on overflow.
bool reach(const Shape& shape, const Shape& strides, int64_t& elements) {
  elements = 1;
  for (int i = 0; i < shape.size(); ++i) {
    int64_t steps = 0;
    if (__builtin_mul_overflow(shape[i] - 1, strides[i], &steps)) return false;
    if (__builtin_add_overflow(elements, steps, &elements)) return false;
  }
  return true;
}

// Whether all elements certainly have memory of their own: the stride of each dimension exceeds
// everything that smaller strides reach.
bool elements_are_distinct(const Shape& shape, const Shape& strides) {
  std::array<std::pair<int64_t, int64_t>, Shape::kMaxDims> steps;  // stride, size
  size_t n = 0;
  for (int i = 0; i < shape.size(); ++i)
    if (shape[i] > 1) {
      size_t at = n++;
      for (; at > 0 && steps[at - 1].first > strides[i]; --at) steps[at] = steps[at - 1];
      steps[at] = {strides[i], shape[i]};
    }
  int64_t reached = 1;
  for (size_t i = 0; i < n; ++i) {
    const auto [stride, size] = steps[i];
    if (stride < reached) return false;
    reached += (size - 1) * stride;
  }
  return true;
}

// Copies a dense tensor to host memory. Blocks until the copy is complete.
void read_bytes(const Tensor& dense, void* to) {
  const Device device = dense.device();
  kernels(device).copy_bytes(current_queue(device), to, dense.raw(), dense.bytes());
  current_queue(device).synchronize();
}

void check_value(double value, DType dtype) {
  const auto within = [&](double low, double beyond) {
    return value >= low && value < beyond && value == std::trunc(value);
  };
  const bool fits = dtype == DType::i64   ? within(-0x1p63, 0x1p63)
                    : dtype == DType::i32 ? within(-0x1p31, 0x1p31)
                    : dtype == DType::u8  ? within(0, 256)
                                          : true;
  check(fits, "[fill_] ", value, " is not a value of ", dtype);
}

}  // namespace

int64_t byte_count(const Shape& shape, DType dtype) {
  int64_t bytes = 0;
  check(!__builtin_mul_overflow(shape.numel(), size_of(dtype), &bytes), "[tensor] ", dtype, shape,
        " has more bytes than an int64 can count");
  return bytes;
}

int normalize_axis(int axis, int dims, std::string_view op) {
  const int normal = axis < 0 ? axis + dims : axis;
  check(normal >= 0 && normal < dims, "[", op, "] axis ", axis, " is out of range for ", dims,
        " dimensions");
  return normal;
}

Tensor Tensor::wrap(std::shared_ptr<Storage> storage, const Shape& shape, DType dtype,
                    int64_t offset_bytes) {
  check(storage != nullptr, "[tensor] expected a storage for ", dtype, shape, ", got none");
  byte_count(shape, dtype);
  Tensor t;
  t.shape_ = shape;
  t.strides_ = shape.contiguous_strides();
  t.numel_ = shape.numel();
  t.dtype_ = dtype;
  check(offset_bytes % size_of(dtype) == 0, "[tensor] offset ", offset_bytes, " is not aligned to ",
        dtype);
  t.offset_ = offset_bytes / size_of(dtype);
  const size_t room = storage->bytes();
  check(offset_bytes >= 0 && static_cast<size_t>(offset_bytes) <= room &&
            static_cast<size_t>(t.bytes()) <= room - static_cast<size_t>(offset_bytes),
        "[tensor] ", t.bytes(), " bytes at offset ", offset_bytes, " exceed a storage of ", room,
        " bytes");
  t.storage_ = std::move(storage);
  return t;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  return wrap(StorageScope::create(static_cast<size_t>(byte_count(shape, dtype)), device), shape,
              dtype);
}

Tensor Tensor::pinned(const Shape& shape, DType dtype, Device device) {
  return wrap(Storage::pinned(static_cast<size_t>(byte_count(shape, dtype)), device), shape, dtype);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  return full(shape, 0, dtype, device);
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill_(value);
  return t;
}

template <typename T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape, Device device) {
  check(static_cast<int64_t>(values.size()) == shape.numel(), "[tensor] ", values.size(),
        " values for shape ", shape);
  Tensor t = empty(shape, dtype_of<T>(), device);
  if (!values.empty())
    kernels(device).copy_bytes(current_queue(device), t.raw(), values.data(), t.bytes());
  return t;
}

int64_t Tensor::size(int axis) const { return shape_[normalize_axis(axis, dim(), "size")]; }

Device Tensor::device() const {
  check(defined(), "[tensor] use of an undefined tensor");
  return storage_->device();
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int i = dim() - 1; i >= 0; --i) {
    if (shape_[i] == 0) return true;
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

void* Tensor::raw() const {
  check(defined(), "[tensor] use of an undefined tensor");
  check(storage_->present() || storage_->bring(), "[tensor] the values of ", *this,
        " are not in memory: ", storage_->why_absent());
  return static_cast<std::byte*>(storage_->data()) + offset_ * size_of(dtype_);
}

void Tensor::check_defined(std::string_view call) const {
  check(defined(), "[", call, "] use of an undefined tensor");
}

void Tensor::check_writable(std::string_view call) const {
  check_defined(call);
  check(numel_ <= 1 || elements_are_distinct(shape_, strides_), "[", call, "] several elements of ",
        *this, " with strides ", strides_,
        " share one place in memory (expand() makes such tensors); write before expanding, or to a "
        "clone()");
}

bool Tensor::overlaps(const Tensor& other) const {
  const auto *here = static_cast<const char*>(raw()),
             *there = static_cast<const char*>(other.raw());
  if (here == there && dtype_ == other.dtype_ && strides_ == other.strides_) return false;
  int64_t mine = 0, others = 0;
  reach(shape_, strides_, mine);
  reach(other.shape_, other.strides_, others);
  return here < there + others * size_of(other.dtype_) && there < here + mine * size_of(dtype_);
}

void Tensor::mark_changed(const char* by) const {
  check_defined("mark_changed");
  storage_->changed(by);
}

void Tensor::check_type(DType wanted) const {
  check(wanted == dtype_, "[data] asked for ", wanted, ", but the tensor is ", *this);
}

void Tensor::check_host_contiguous() const {
  check(device().type == DeviceType::cpu && is_contiguous(),
        "[span] needs a contiguous tensor on the CPU, got ", *this, " on ", device());
}

template <typename T>
std::vector<T> Tensor::to_vector() const {
  check_defined("to_vector");
  const Tensor dense = to(dtype_of<T>()).contiguous();
  std::vector<T> values(static_cast<size_t>(numel_));
  if (numel_ > 0) read_bytes(dense, values.data());
  return values;
}

template <>
std::vector<bool> Tensor::to_vector() const {
  check_defined("to_vector");
  // Any value except 0 is true, also 0.5 and 256.
  const Tensor dense = to(DType::boolean).contiguous();
  std::vector<uint8_t> bytes(static_cast<size_t>(numel_));
  if (numel_ > 0) read_bytes(dense, bytes.data());
  return {bytes.begin(), bytes.end()};
}

double Tensor::item() const {
  check(numel_ == 1, "[item] needs exactly one element, got ", *this);
  // Integers beyond 2^24 would lose bits in a float.
  return is_floating(dtype_) ? static_cast<double>(to_vector<float>()[0])
                             : static_cast<double>(to_vector<int64_t>()[0]);
}

// Makes a view. The caller has checked that its elements lie within the storage.
Tensor Tensor::viewed(std::string_view call, const Shape& shape, const Shape& strides,
                      int64_t offset) const {
  check_defined(call);
  byte_count(shape, dtype_);
  Tensor t = *this;
  t.shape_ = shape;
  t.strides_ = strides;
  t.offset_ += offset;
  t.numel_ = shape.numel();
  return t;
}

Tensor Tensor::as_strided(const Shape& shape, const Shape& strides, int64_t offset_elements) const {
  check_defined("as_strided");
  check(strides.size() == shape.size(), "[as_strided] expected a stride for each dimension of ",
        shape, ", got ", strides);
  for (const int64_t stride : strides)
    check(stride >= 0, "[as_strided] expected strides of 0 or more, got ", strides);
  const int64_t room = static_cast<int64_t>(storage_->bytes()) / size_of(dtype_);
  int64_t first = 0, elements = 0, end = 0;
  const bool fits =
      !__builtin_add_overflow(offset_, offset_elements, &first) && first >= 0 && first <= room &&
      (shape.numel() == 0 || (reach(shape, strides, elements) &&
                              !__builtin_add_overflow(first, elements, &end) && end <= room));
  check(fits, "[as_strided] shape ", shape, " with strides ", strides, " at element ",
        offset_elements, " of ", *this, " lies outside its storage of ", room,
        " elements, in which this view begins at ", offset_);
  // The strides of an empty view are meaningless and could overflow in views of the view.
  return viewed("as_strided", shape, shape.numel() > 0 ? strides : shape.contiguous_strides(),
                offset_elements);
}

Tensor Tensor::view(const Shape& wanted) const {
  const Shape shape = infer_dimension(wanted, numel_, "view");
  Shape strides;
  check(view_strides(shape_, strides_, shape, strides), "[view] ", *this, " with strides ",
        strides_, " cannot be seen as ", shape, " without a copy; use reshape()");
  return viewed("view", shape, strides, 0);
}

Tensor Tensor::reshape(const Shape& wanted) const {
  const Shape shape = infer_dimension(wanted, numel_, "reshape");
  Shape strides;
  if (view_strides(shape_, strides_, shape, strides)) return viewed("reshape", shape, strides, 0);
  return clone().view(shape);
}

Tensor Tensor::transpose(int axis_a, int axis_b) const {
  check_defined("transpose");
  const int a = normalize_axis(axis_a, dim(), "transpose"),
            b = normalize_axis(axis_b, dim(), "transpose");
  Tensor t = *this;
  std::swap(t.shape_[a], t.shape_[b]);
  std::swap(t.strides_[a], t.strides_[b]);
  return t;
}

Tensor Tensor::narrow(int axis, int64_t start, int64_t length) const {
  const int a = normalize_axis(axis, dim(), "narrow");
  check(start >= 0 && length >= 0 && start <= shape_[a] && length <= shape_[a] - start, "[narrow] ",
        length, " elements from element ", start, " on lie outside axis ", a, " of ", *this);
  Shape shape = shape_;
  shape[a] = length;
  return viewed("narrow", shape, strides_, start * strides_[a]);
}

Tensor Tensor::select(int axis, int64_t index) const {
  const int a = normalize_axis(axis, dim(), "select");
  check(index >= 0 && index < shape_[a], "[select] index ", index, " is outside axis ", a, " of ",
        *this);
  Tensor t = narrow(a, index, 1);
  t.shape_.erase(a);
  t.strides_.erase(a);
  return t;
}

Tensor Tensor::unsqueeze(int axis) const {
  check_defined("unsqueeze");
  const int a = normalize_axis(axis, dim() + 1, "unsqueeze");
  Tensor t = *this;
  t.strides_.insert(a, a < dim() ? shape_[a] * strides_[a] : 1);
  t.shape_.insert(a, 1);
  return t;
}

Tensor Tensor::expand(const Shape& shape) const {
  check_defined("expand");
  check(shape.size() >= dim(), "[expand] ", *this, " has more dimensions than ", shape);
  Shape strides = shape;
  const int lead = shape.size() - dim();
  for (int i = 0; i < shape.size(); ++i) {
    const bool repeat = i < lead || (shape_[i - lead] == 1 && shape[i] != 1);
    check(repeat || shape_[i - lead] == shape[i], "[expand] ", *this, " does not expand to ",
          shape);
    strides[i] = repeat ? 0 : strides_[i - lead];
  }
  return viewed("expand", shape, strides, 0);
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_(*this);
  return t;
}

Tensor Tensor::contiguous() const {
  check_defined("contiguous");
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::to(DType dtype) const {
  check_defined("to");
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device());
  t.copy_(*this);
  return t;
}

Tensor Tensor::to(Device target) const {
  if (target == device()) return *this;
  Tensor t = empty(shape_, dtype_, target);
  t.copy_(*this);
  return t;
}

const Tensor& Tensor::copy_(const Tensor& source) const {
  check_writable("copy_");
  source.check_defined("copy_");
  const Tensor from = source.shape() == shape_ ? source : source.expand(shape_);
  if (numel_ == 0) return *this;
  write(from);
  mark_changed("copy_");  // not earlier: a copy that throws changes nothing
  return *this;
}

// Writes the elements of `from`, which has this shape.
void Tensor::write(const Tensor& from) const {
  if (from.device() == device())
    return kernels(device()).copy(current_queue(device()), strided(*this),
                                  strided(overlaps(from) ? from.clone() : from));
  // Between devices, bytes travel dense and in one dtype. A side that is not dense or has another
  // dtype is prepared on its own device.
  const Tensor dense = from.to(dtype_).contiguous();
  const Tensor target = is_contiguous() ? *this : empty(shape_, dtype_, device());
  // The host may change its side as soon as this returns. With pageable host memory, the copy call
  // itself ensures that this is safe.
  const Event copied = target.queue_copy(dense);
  if (target.storage_->is_pinned() || dense.storage_->is_pinned()) copied.synchronize();
  if (!is_contiguous()) write(target);
}

// Queues the copy of a dense tensor from another device.
Event Tensor::queue_copy(const Tensor& dense) const {
  Capture::prevent("a copy between devices, or between the host and a device");
  const Device on = device().type == DeviceType::cpu ? dense.device() : device();
  // What is recorded has no values yet that the host could see.
  if (Capture::records(current_queue(on)) && device() == kCpu) {
    std::memset(raw(), 0, static_cast<size_t>(bytes()));
    return {};
  }
  const Queue& queue = Capture::outside(current_queue(on));
  const bool between = dense.device() != on && dense.device().type != DeviceType::cpu;
  if (between) Event::record(current_queue(dense.device())).wait(queue);
  kernels(on).copy_bytes(queue, raw(), dense.raw(), bytes());
  storage_->used_on(queue);
  dense.storage_->used_on(queue);
  const Event copied = Event::record(queue);
  // The other device may change the source as soon as this returns.
  if (between) copied.wait(current_queue(dense.device()));
  return copied;
}

Event Tensor::copy_later(const Tensor& source) const {
  check_writable("copy_later");
  source.check_defined("copy_later");
  check(source.shape() == shape_ && source.dtype() == dtype_ && source.is_contiguous() &&
            is_contiguous(),
        "[copy_later] expected dense tensors of one shape and dtype, got ", *this, " and ", source);
  for (const Tensor* side : {this, &source})
    check(side->device().type != DeviceType::cpu || side->storage_->is_pinned() ||
              (source.device() == kCpu && device() == kCpu),
          "[copy_later] expected host memory of Tensor::pinned(), got ", *side,
          " in other memory; use copy_()");
  mark_changed("copy_later");
  if (numel_ == 0) return {};
  if (source.device() == device()) {
    write(source);
    return Event::record(current_queue(device()));
  }
  return queue_copy(source);
}

const Tensor& Tensor::fill_(double value) const {
  check_writable("fill_");
  check_value(value, dtype_);
  if (numel_ == 0) return *this;
  mark_changed("fill_");
  kernels(device()).fill(current_queue(device()), strided(*this), value);
  return *this;
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  if (!tensor.defined()) return out << "undefined";
  return out << tensor.dtype() << tensor.shape();
}

template Tensor Tensor::from(std::span<const float>, const Shape&, Device);
template Tensor Tensor::from(std::span<const BFloat16>, const Shape&, Device);
template Tensor Tensor::from(std::span<const Float16>, const Shape&, Device);
template Tensor Tensor::from(std::span<const int64_t>, const Shape&, Device);
template Tensor Tensor::from(std::span<const int32_t>, const Shape&, Device);
template Tensor Tensor::from(std::span<const uint8_t>, const Shape&, Device);
template std::vector<float> Tensor::to_vector() const;
template std::vector<BFloat16> Tensor::to_vector() const;
template std::vector<Float16> Tensor::to_vector() const;
template std::vector<int64_t> Tensor::to_vector() const;
template std::vector<int32_t> Tensor::to_vector() const;
template std::vector<uint8_t> Tensor::to_vector() const;

}  // namespace lockstep
