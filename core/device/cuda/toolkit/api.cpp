// The table of functions from NVIDIA's runtime, which is linked statically: the program starts on a
// machine without a driver, and the first call there says so.
#include "core/device/cuda/api.h"

#include <cstdio>
#include <cstring>

#include <cuda_runtime_api.h>

#include "core/base/error.h"
#include "core/device/cuda/stream.h"

namespace lockstep::cuda {
namespace {

cudaStream_t stream_from(StreamHandle stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_from(EventHandle event) { return static_cast<cudaEvent_t>(event); }

int device_count(int* count) { return cudaGetDeviceCount(count); }
int driver_version(int* version) { return cudaDriverGetVersion(version); }

int properties(int device, DeviceProperties* out) {
  cudaDeviceProp found;
  if (const int error = cudaGetDeviceProperties(&found, device)) return error;
  out->name = found.name;
  out->major = found.major;
  out->minor = found.minor;
  out->multiprocessors = found.multiProcessorCount;
  out->memory_bytes = static_cast<int64_t>(found.totalGlobalMem);
  out->uuid.clear();
  for (const char byte : found.uuid.bytes) {
    char text[3];
    std::snprintf(text, sizeof(text), "%02x", static_cast<unsigned>(static_cast<uint8_t>(byte)));
    out->uuid += text;
  }
  return 0;
}

int set_device(int device) { return cudaSetDevice(device); }
int allocate(void** pointer, size_t bytes) { return cudaMalloc(pointer, bytes); }
int free_memory(void* pointer) { return cudaFree(pointer); }
int memory_info(size_t* free_bytes, size_t* total) { return cudaMemGetInfo(free_bytes, total); }
int allocate_pinned(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocPortable);
}
int free_pinned(void* pointer) { return cudaFreeHost(pointer); }

// A queue of its own: work of the legacy default stream neither waits for it nor holds it up.
int stream_create(StreamHandle* stream) {
  cudaStream_t made = nullptr;
  const int error = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  *stream = made;
  return error;
}
int stream_destroy(StreamHandle stream) { return cudaStreamDestroy(stream_from(stream)); }
int stream_synchronize(StreamHandle stream) { return cudaStreamSynchronize(stream_from(stream)); }
int stream_wait(StreamHandle stream, EventHandle event) {
  return cudaStreamWaitEvent(stream_from(stream), event_from(event), 0);
}

int event_create(EventHandle* event) {
  cudaEvent_t made = nullptr;
  const int error = cudaEventCreate(&made);
  *event = made;
  return error;
}
int event_destroy(EventHandle event) { return cudaEventDestroy(event_from(event)); }
int event_record(EventHandle event, StreamHandle stream) {
  return cudaEventRecord(event_from(event), stream_from(stream));
}
int event_done(EventHandle event, bool* done) {
  const int error = cudaEventQuery(event_from(event));
  *done = error == cudaSuccess;
  return error == cudaErrorNotReady ? 0 : error;
}
int event_elapsed_ms(EventHandle start, EventHandle end, float* ms) {
  return cudaEventElapsedTime(ms, event_from(start), event_from(end));
}
int event_synchronize(EventHandle event) { return cudaEventSynchronize(event_from(event)); }

int copy(void* to, const void* from, size_t bytes, StreamHandle stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_from(stream));
}
int fill_bytes(void* to, int byte, size_t bytes, StreamHandle stream) {
  return cudaMemsetAsync(to, byte, bytes, stream_from(stream));
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace

const CudaApi& api() {
  static const CudaApi table{.device_count = device_count,
                             .driver_version = driver_version,
                             .properties = properties,
                             .set_device = set_device,
                             .allocate = allocate,
                             .free = free_memory,
                             .memory_info = memory_info,
                             .allocate_pinned = allocate_pinned,
                             .free_pinned = free_pinned,
                             .stream_create = stream_create,
                             .stream_destroy = stream_destroy,
                             .stream_synchronize = stream_synchronize,
                             .stream_wait = stream_wait,
                             .event_create = event_create,
                             .event_destroy = event_destroy,
                             .event_record = event_record,
                             .event_done = event_done,
                             .event_synchronize = event_synchronize,
                             .event_elapsed_ms = event_elapsed_ms,
                             .copy = copy,
                             .fill_bytes = fill_bytes,
                             .poison = nullptr,
                             .error_text = error_text};
  return table;
}

bool is_out_of_memory(int error) { return error == cudaErrorMemoryAllocation; }

// The runtime remembers the last error until somebody takes it.
void check_cuda(int error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw EnvironmentError(str("[cuda] ", what, ": ", error_text(error)));
}

void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw EnvironmentError(str("[cuda] starting kernel ", kernel, ": ", cudaGetErrorString(error)));
}

}  // namespace lockstep::cuda
