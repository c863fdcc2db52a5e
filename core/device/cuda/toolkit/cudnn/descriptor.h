// A descriptor of cuDNN's backend API: an object with attributes that is finalised once.
#pragma once

#include <utility>
#include <vector>

#include "core/device/cuda/toolkit/cudnn/api.h"

namespace lockstep::cuda::cudnn {

// The API's name for the type of an attribute's elements.
template <class T>
inline constexpr cudnnBackendAttributeType_t kAttributeType = CUDNN_TYPE_VOID_PTR;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<int64_t> = CUDNN_TYPE_INT64;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<bool> = CUDNN_TYPE_BOOLEAN;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<char> = CUDNN_TYPE_CHAR;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnDataType_t> = CUDNN_TYPE_DATA_TYPE;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnPointwiseMode_t> =
    CUDNN_TYPE_POINTWISE_MODE;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnReduceTensorOp_t> =
    CUDNN_TYPE_REDUCTION_OPERATOR_TYPE;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnBackendHeurMode_t> =
    CUDNN_TYPE_HEUR_MODE;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnBackendNumericalNote_t> =
    CUDNN_TYPE_NUMERICAL_NOTE;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnBackendKnobType_t> =
    CUDNN_TYPE_KNOB_TYPE;
template <>
inline constexpr cudnnBackendAttributeType_t kAttributeType<cudnnBackendDescriptor_t> =
    CUDNN_TYPE_BACKEND_DESCRIPTOR;

// Owns one descriptor. Not thread-safe. Every call throws EnvironmentError with cuDNN's own reason
// if cuDNN refuses it, unless it says otherwise.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    check_cudnn(api().descriptor_create(type, &handle_), "creating a descriptor");
  }
  Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Descriptor() {
    if (handle_) api().descriptor_destroy(handle_);
  }

  cudnnBackendDescriptor_t handle() const { return handle_; }

  template <class T>
  void set(cudnnBackendAttributeName_t name, const T* values, size_t count) {
    check_cudnn(api().set(handle_, name, kAttributeType<T>, static_cast<int64_t>(count), values),
                "setting an attribute");
  }
  template <class T>
  void set(cudnnBackendAttributeName_t name, const T& value) {
    set(name, &value, 1);
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) { set(name, value.handle_); }

  void finalize(const std::string& what) { check_cudnn(api().finalize(handle_), what); }
  // Returns false if cuDNN cannot. Throws ShortOfMemory.
  bool try_finalize(const std::string& what) {
    try {
      finalize(what);
      return true;
    } catch (const ShortOfMemory&) {
      throw;
    } catch (const EnvironmentError&) {
      return false;
    }
  }

  // One number.
  int64_t number(cudnnBackendAttributeName_t name) const {
    int64_t value = 0, count = 0;
    check_cudnn(api().get(handle_, name, CUDNN_TYPE_INT64, 1, &count, &value),
                "reading an attribute");
    return value;
  }
  // All values of a list.
  template <class T>
  std::vector<T> list(cudnnBackendAttributeName_t name) const {
    int64_t count = 0;
    check_cudnn(api().get(handle_, name, kAttributeType<T>, 0, &count, nullptr),
                "reading an attribute");
    std::vector<T> values(static_cast<size_t>(count));
    if (count > 0)
      check_cudnn(api().get(handle_, name, kAttributeType<T>, count, &count, values.data()),
                  "reading an attribute");
    values.resize(static_cast<size_t>(count));
    return values;
  }

 private:
  cudnnBackendDescriptor_t handle_ = nullptr;
};

}  // namespace lockstep::cuda::cudnn
