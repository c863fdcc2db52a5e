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

// The runtime keeps the last error for whoever asks next, which would be a kernel's launch.
int taken(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

int device_count(int* count) { return taken(cudaGetDeviceCount(count)); }
int driver_version(int* version) { return taken(cudaDriverGetVersion(version)); }

int properties(int device, DeviceProperties* out) {
  cudaDeviceProp found;
  if (const int error = taken(cudaGetDeviceProperties(&found, device))) return error;
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

int set_device(int device) { return taken(cudaSetDevice(device)); }
int allocate(void** pointer, size_t bytes) { return taken(cudaMalloc(pointer, bytes)); }
int free_memory(void* pointer) { return taken(cudaFree(pointer)); }
int memory_info(size_t* free_bytes, size_t* total) {
  return taken(cudaMemGetInfo(free_bytes, total));
}
int allocate_pinned(void** pointer, size_t bytes) {
  return taken(cudaHostAlloc(pointer, bytes, cudaHostAllocPortable));
}
int free_pinned(void* pointer) { return taken(cudaFreeHost(pointer)); }

// A queue of its own: work of the legacy default stream neither waits for it nor holds it up.
int stream_create(StreamHandle* stream) {
  cudaStream_t made = nullptr;
  const int error = taken(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  *stream = made;
  return error;
}
int stream_destroy(StreamHandle stream) { return taken(cudaStreamDestroy(stream_from(stream))); }
int stream_synchronize(StreamHandle stream) {
  return taken(cudaStreamSynchronize(stream_from(stream)));
}
int stream_wait(StreamHandle stream, EventHandle event) {
  return taken(cudaStreamWaitEvent(stream_from(stream), event_from(event), 0));
}

int event_create(EventHandle* event) {
  cudaEvent_t made = nullptr;
  const int error = taken(cudaEventCreate(&made));
  *event = made;
  return error;
}
int event_destroy(EventHandle event) { return taken(cudaEventDestroy(event_from(event))); }
int event_record(EventHandle event, StreamHandle stream) {
  return taken(cudaEventRecord(event_from(event), stream_from(stream)));
}
int event_done(EventHandle event, bool* done) {
  const int error = taken(cudaEventQuery(event_from(event)));
  *done = error == cudaSuccess;
  return error == cudaErrorNotReady ? 0 : error;
}
int event_elapsed_ms(EventHandle start, EventHandle end, float* ms) {
  return taken(cudaEventElapsedTime(ms, event_from(start), event_from(end)));
}
int event_synchronize(EventHandle event) { return taken(cudaEventSynchronize(event_from(event))); }

// Whether host code may be at this memory while a copy runs: it was not allocated here.
bool is_ordinary(const void* pointer) {
  cudaPointerAttributes found;
  return taken(cudaPointerGetAttributes(&found, pointer)) != cudaSuccess ||
         found.type == cudaMemoryTypeUnregistered;
}

// The runtime's own copies of ordinary host memory "might be synchronous", says its documentation,
// and on machines where the device reads such memory by itself they are not.
int copy(void* to, const void* from, size_t bytes, StreamHandle stream) {
  const cudaStream_t on = stream_from(stream);
  if (const int error = taken(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, on)))
    return error;
  return is_ordinary(to) || is_ordinary(from) ? taken(cudaStreamSynchronize(on)) : 0;
}
int fill_bytes(void* to, int byte, size_t bytes, StreamHandle stream) {
  return taken(cudaMemsetAsync(to, byte, bytes, stream_from(stream)));
}

// Relaxed, because the thread allocates memory meanwhile.
int capture_begin(StreamHandle stream) {
  return taken(cudaStreamBeginCapture(stream_from(stream), cudaStreamCaptureModeRelaxed));
}
int capture_end(StreamHandle stream, GraphHandle* graph) {
  cudaGraph_t recorded = nullptr;
  if (const int error = taken(cudaStreamEndCapture(stream_from(stream), &recorded))) return error;
  int error = 0;
  if (graph) {
    cudaGraphExec_t made = nullptr;
    error = taken(cudaGraphInstantiate(&made, recorded, 0));
    *graph = made;
  }
  const int destroyed = recorded ? taken(cudaGraphDestroy(recorded)) : 0;
  return error ? error : destroyed;
}
int graph_launch(GraphHandle graph, StreamHandle stream) {
  return taken(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_from(stream)));
}
int graph_destroy(GraphHandle graph) {
  return taken(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)));
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
                             .capture_begin = capture_begin,
                             .capture_end = capture_end,
                             .graph_launch = graph_launch,
                             .graph_destroy = graph_destroy,
                             .poison = nullptr,
                             .error_text = error_text};
  return table;
}

bool is_out_of_memory(int error) { return error == cudaErrorMemoryAllocation; }

void check_cuda(int error, const char* what) {
  if (error == cudaSuccess) return;
  throw EnvironmentError(str("[cuda] ", what, ": ", error_text(error)));
}

void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw EnvironmentError(str("[cuda] starting kernel ", kernel, ": ", cudaGetErrorString(error)));
}

}  // namespace lockstep::cuda
