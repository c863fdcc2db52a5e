// The simulated machine of these tests, and owners of what the CudaApi hands out.
#pragma once

#include <cstdlib>
#include <tuple>
#include <utility>
#include <vector>

#include "core/device/cuda/api.h"
#include "core/device/cuda/kernel_language.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/sim/statistics.h"

namespace lockstep::cuda::sim {

inline constexpr int kDevices = 2;
inline constexpr size_t kMemory = 64000000;
// The runtime reads the environment when it is first used, which is after this.
inline const bool machine_is_set = [] {
  setenv("LOCKSTEP_SIM_DEVICES", "2", 1);
  setenv("LOCKSTEP_SIM_MEMORY_MB", "64", 1);
  return true;
}();

inline void ok(int error) { check_cuda(error, "test"); }

class TestStream {
 public:
  explicit TestStream(int device = 0) {
    ok(api().set_device(device));
    ok(api().stream_create(&handle_));
  }
  ~TestStream() { api().stream_destroy(handle_); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;

  operator StreamHandle() const { return handle_; }
  void synchronize() const { ok(api().stream_synchronize(handle_)); }

 private:
  StreamHandle handle_ = nullptr;
};

class TestEvent {
 public:
  explicit TestEvent(int device = 0) {
    ok(api().set_device(device));
    ok(api().event_create(&handle_));
  }
  ~TestEvent() { api().event_destroy(handle_); }
  TestEvent(const TestEvent&) = delete;
  TestEvent& operator=(const TestEvent&) = delete;

  operator EventHandle() const { return handle_; }
  void record(StreamHandle stream) const { ok(api().event_record(handle_, stream)); }
  void wait(StreamHandle stream) const { ok(api().stream_wait(stream, handle_)); }
  bool done() const {
    bool done = false;
    ok(api().event_done(handle_, &done));
    return done;
  }

 private:
  EventHandle handle_ = nullptr;
};

// `size` elements of device memory.
template <class T>
class Array {
 public:
  explicit Array(size_t size, int device = 0) : size_(size) {
    ok(api().set_device(device));
    void* data = nullptr;
    ok(api().allocate(&data, size * sizeof(T)));
    data_ = static_cast<T*>(data);
  }
  ~Array() { api().free(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() const { return data_; }
  size_t bytes() const { return size_ * sizeof(T); }
  // Queued.
  void set(const std::vector<T>& values, StreamHandle stream) const {
    ok(api().copy(data_, values.data(), bytes(), stream));
  }
  // After what is queued on the stream.
  std::vector<T> get(StreamHandle stream) const {
    std::vector<T> values(size_);
    ok(api().copy(values.data(), data_, bytes(), stream));
    return values;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

// Runs what earlier tests have left queued, so that the order of what follows is that of the seed.
inline void run_leftovers() {
  int devices = 0;
  ok(api().device_count(&devices));
  for (int device = 0; device < devices; ++device) const Array<int> freed(1, device);
}

// Queues kernel(args…). Threads run together.
template <class... P, class... A>
void run(StreamHandle stream, int64_t blocks, int threads, void (*kernel)(P...), A... args) {
  launch(
      "test_kernel", stream, blocks, threads, true,
      [kernel, values = std::tuple<P...>(static_cast<P>(args)...)] { std::apply(kernel, values); });
}
template <class... P, class... A>
void run_independent(StreamHandle stream, int64_t blocks, int threads, void (*kernel)(P...),
                     A... args) {
  launch(
      "test_kernel", stream, blocks, threads, false,
      [kernel, values = std::tuple<P...>(static_cast<P>(args)...)] { std::apply(kernel, values); });
}

}  // namespace lockstep::cuda::sim
