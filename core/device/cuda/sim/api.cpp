#include "core/device/cuda/api.h"

#include <atomic>
#include <exception>
#include <utility>

#include <pthread.h>

#include "core/base/error.h"
#include "core/device/cuda/sim/errors.h"
#include "core/device/cuda/sim/kernel.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/sim/runtime.h"
#include "core/device/cuda/sim/seed.h"

namespace lockstep::cuda {
namespace sim {
namespace {

constexpr int kDriverVersion = 13000;
constexpr int kMultiprocessors = 132;

std::atomic<bool> forked{false};
// -1: this thread has named none. NVIDIA's runtime takes device 0 then, which is mostly a mistake:
// a process would hold memory on a card that it does not use.
thread_local int current_device = -1;

// Runs call(runtime) and turns what it throws into an error code. A process that forked after it
// used CUDA cannot use CUDA in the child, in NVIDIA's runtime either.
template <class Call>
int with_runtime(const Call& call) {
  try {
    if (forked) return failure(kInitializationError, "the process used CUDA before it forked");
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
    (void)registered;
    return call(Runtime::instance());
  } catch (const UsageError& error) {
    return failure(kInitializationError, error.what());
  } catch (const std::bad_alloc&) {
    return failure(kOutOfMemory, "of the host");
  } catch (const std::exception& error) {
    return failure(kUnknown, error.what());
  }
}

// As above, for a call that needs the thread's current device.
template <class Call>
int on_device(const Call& call) {
  return with_runtime([&](Runtime& runtime) {
    if (runtime.settings().devices == 0) return static_cast<int>(kNoDevice);
    if (current_device < 0) return failure(kInvalidDevice, "the thread has set no device");
    return call(runtime, current_device);
  });
}

int device_count(int* count) {
  return with_runtime([&](Runtime& runtime) {
    *count = runtime.settings().devices;
    return kSuccess;
  });
}

int driver_version(int* version) {
  *version = kDriverVersion;
  return kSuccess;
}

int check_device(const Runtime& runtime, int device) {
  if (device >= 0 && device < runtime.settings().devices) return kSuccess;
  return failure(kInvalidDevice, str("expected a device from 0 to ", runtime.settings().devices - 1,
                                     ", got ", device));
}

int properties(int device, DeviceProperties* out) {
  return with_runtime([&](Runtime& runtime) {
    if (const int error = check_device(runtime, device)) return error;
    *out = {"simulated GPU",          9, 0, kMultiprocessors, runtime.settings().memory,
            str("simulated-", device)};
    return static_cast<int>(kSuccess);
  });
}

int set_device(int device) {
  return with_runtime([&](Runtime& runtime) {
    if (const int error = check_device(runtime, device)) return error;
    current_device = device;
    return static_cast<int>(kSuccess);
  });
}

int allocate(void** pointer, size_t bytes) {
  return on_device(
      [&](Runtime& runtime, int device) { return runtime.allocate(device, pointer, bytes); });
}
int free(void* pointer) {
  return with_runtime([&](Runtime& runtime) { return runtime.free(pointer); });
}
int memory_info(size_t* free_bytes, size_t* total_bytes) {
  return on_device([&](Runtime& runtime, int device) {
    return runtime.memory_info(device, free_bytes, total_bytes);
  });
}
int allocate_pinned(void** pointer, size_t bytes) {
  return on_device([&](Runtime& runtime, int) { return runtime.allocate_pinned(pointer, bytes); });
}
int free_pinned(void* pointer) {
  return with_runtime([&](Runtime& runtime) { return runtime.free_pinned(pointer); });
}

int stream_create(StreamHandle* stream) {
  return on_device(
      [&](Runtime& runtime, int device) { return runtime.stream_create(device, stream); });
}
int stream_destroy(StreamHandle stream) {
  return with_runtime([&](Runtime& runtime) { return runtime.stream_destroy(stream); });
}
int stream_synchronize(StreamHandle stream) {
  return with_runtime([&](Runtime& runtime) { return runtime.stream_synchronize(stream); });
}
int stream_wait(StreamHandle stream, EventHandle event) {
  return with_runtime([&](Runtime& runtime) { return runtime.stream_wait(stream, event); });
}

int event_create(EventHandle* event) {
  return on_device(
      [&](Runtime& runtime, int device) { return runtime.event_create(device, event); });
}
int event_destroy(EventHandle event) {
  return with_runtime([&](Runtime& runtime) { return runtime.event_destroy(event); });
}
int event_record(EventHandle event, StreamHandle stream) {
  return with_runtime([&](Runtime& runtime) { return runtime.event_record(event, stream); });
}
int event_done(EventHandle event, bool* done) {
  return with_runtime([&](Runtime& runtime) { return runtime.event_done(event, done); });
}
int event_synchronize(EventHandle event) {
  return with_runtime([&](Runtime& runtime) { return runtime.event_synchronize(event); });
}
int event_elapsed_ms(EventHandle start, EventHandle end, float* ms) {
  return with_runtime([&](Runtime& runtime) { return runtime.event_elapsed_ms(start, end, ms); });
}

int copy(void* to, const void* from, size_t bytes, StreamHandle stream) {
  return with_runtime([&](Runtime& runtime) { return runtime.copy(to, from, bytes, stream); });
}
int fill_bytes(void* to, int byte, size_t bytes, StreamHandle stream) {
  return with_runtime(
      [&](Runtime& runtime) { return runtime.fill("fill_bytes", to, byte, bytes, stream); });
}
int poison(void* pointer, size_t bytes, StreamHandle stream) {
  return with_runtime(
      [&](Runtime& runtime) { return runtime.fill("poison", pointer, 0xFF, bytes, stream); });
}

int capture_begin(StreamHandle stream) {
  return with_runtime([&](Runtime& runtime) { return runtime.capture_begin(stream); });
}
int capture_end(StreamHandle stream, GraphHandle* graph) {
  return with_runtime([&](Runtime& runtime) { return runtime.capture_end(stream, graph); });
}
int graph_launch(GraphHandle graph, StreamHandle stream) {
  return with_runtime([&](Runtime& runtime) { return runtime.graph_launch(graph, stream); });
}
int graph_destroy(GraphHandle graph) {
  return with_runtime([&](Runtime& runtime) { return runtime.graph_destroy(graph); });
}

}  // namespace

void launch(const char* name, void* stream, int64_t blocks, int threads, bool together,
            std::function<void()> thread) {
  constexpr int64_t kMostBlocks = 0x7fffffff;
  constexpr int kMostThreads = 1024, kWarp = 32;
  check(blocks > 0 && blocks <= kMostBlocks, "[", name, "] expected 1 to ", kMostBlocks,
        " blocks, got ", blocks);
  check(threads > 0 && threads <= kMostThreads && threads % kWarp == 0, "[", name,
        "] expected a multiple of ", kWarp, " threads up to ", kMostThreads, ", got ", threads);
  Item item{.name = name};
  item.run = [kernel = Kernel{name, blocks, threads, together, std::move(thread)}](Random& random) {
    run_kernel(kernel, random);
  };
  check_cuda(
      with_runtime([&](Runtime& runtime) { return runtime.enqueue(stream, std::move(item)); }),
      name);
}

void enqueue(const char* name, void* stream, std::function<void()> run) {
  enqueue(name, stream, nullptr, std::move(run));
}

void enqueue(const char* name, void* stream, std::function<bool()> ready,
             std::function<void()> run) {
  Item item{.name = name};
  item.run = [run = std::move(run)](Random&) { run(); };
  item.ready = std::move(ready);
  item.all_devices = true;
  check_cuda(
      with_runtime([&](Runtime& runtime) { return runtime.enqueue(stream, std::move(item)); }),
      name);
}

void wake() { Runtime::instance().wake(); }

void set_seed(uint64_t seed) { Runtime::instance().set_seed(seed); }
Statistics statistics(int device) { return Runtime::instance().statistics(device); }
void reset_statistics() { Runtime::instance().reset_statistics(); }

}  // namespace sim

const CudaApi& api() {
  static const CudaApi table{
      .device_count = sim::device_count,
      .driver_version = sim::driver_version,
      .properties = sim::properties,
      .set_device = sim::set_device,
      .allocate = sim::allocate,
      .free = sim::free,
      .memory_info = sim::memory_info,
      .allocate_pinned = sim::allocate_pinned,
      .free_pinned = sim::free_pinned,
      .stream_create = sim::stream_create,
      .stream_destroy = sim::stream_destroy,
      .stream_synchronize = sim::stream_synchronize,
      .stream_wait = sim::stream_wait,
      .event_create = sim::event_create,
      .event_destroy = sim::event_destroy,
      .event_record = sim::event_record,
      .event_done = sim::event_done,
      .event_synchronize = sim::event_synchronize,
      .event_elapsed_ms = sim::event_elapsed_ms,
      .copy = sim::copy,
      .fill_bytes = sim::fill_bytes,
      .capture_begin = sim::capture_begin,
      .capture_end = sim::capture_end,
      .graph_launch = sim::graph_launch,
      .graph_destroy = sim::graph_destroy,
      .poison = sim::poison,
      .error_text = sim::error_text,
  };
  return table;
}

bool is_out_of_memory(int error) { return error == sim::kOutOfMemory; }

void check_cuda(int error, const char* what) {
  if (error) throw EnvironmentError(str("[cuda] ", what, ": ", sim::error_text(error)));
}

}  // namespace lockstep::cuda
