// The calls of the CUDA runtime that this project uses, as a table of functions. core/device/cuda
// reaches a device only through it and through launch.h. core/device/cuda/toolkit fills the table
// from NVIDIA's runtime, core/device/cuda/sim from a simulated one (LOCKSTEP_CUDA=SIM). No type of
// NVIDIA's headers appears here, so the simulation builds without them.
//
// Every function returns 0, or an error code of the runtime, which error_text() puts into words.
// Calls that are ordered by a stream return once they are queued. All are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lockstep::cuda {

using StreamHandle = void*;
using EventHandle = void*;
using GraphHandle = void*;

struct DeviceProperties {
  std::string name;          // "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  std::string uuid;  // distinguishes cards of one machine
};

struct CudaApi {
  // The number of devices that this process may use. Fails if there is no driver.
  int (*device_count)(int* count);
  int (*driver_version)(int* version);  // 13000 for CUDA 13.0
  int (*properties)(int device, DeviceProperties* out);
  // The device of the calls below that name no stream, for the calling thread.
  int (*set_device)(int device);

  // Of the current device, aligned to 256 bytes.
  int (*allocate)(void** pointer, size_t bytes);
  // Waits for all work of the device.
  int (*free)(void* pointer);
  int (*memory_info)(size_t* free_bytes, size_t* total_bytes);
  // Host memory that a device reads and writes without a copy in between.
  int (*allocate_pinned)(void** pointer, size_t bytes);
  int (*free_pinned)(void* pointer);

  int (*stream_create)(StreamHandle* stream);  // on the current device
  int (*stream_destroy)(StreamHandle stream);  // what is queued still runs
  int (*stream_synchronize)(StreamHandle stream);
  // Later work of `stream` starts after `event`. An event that was never recorded is done.
  int (*stream_wait)(StreamHandle stream, EventHandle event);

  int (*event_create)(EventHandle* event);  // on the current device
  int (*event_destroy)(EventHandle event);
  int (*event_record)(EventHandle event, StreamHandle stream);  // of the event's device
  int (*event_done)(EventHandle event, bool* done);
  int (*event_synchronize)(EventHandle event);
  // Between two events that are done.
  int (*event_elapsed_ms)(EventHandle start, EventHandle end, float* ms);

  // Between any two of device memory, pinned and other host memory. Pinned memory is read and
  // written when the copy runs. Other host memory is read before the call returns; a copy into it
  // blocks until it is there.
  int (*copy)(void* to, const void* from, size_t bytes, StreamHandle stream);
  int (*fill_bytes)(void* to, int byte, size_t bytes, StreamHandle stream);

  // What is queued on `stream` from now on is recorded instead of run, until capture_end(). Then
  // the stream takes no events, and no copies of ordinary host memory.
  int (*capture_begin)(StreamHandle stream);
  // `graph`: what was recorded, ready to be launched. Null drops it.
  int (*capture_end)(StreamHandle stream, GraphHandle* graph);
  // Queues everything that was recorded, in its order. `stream` is of the same device.
  int (*graph_launch)(GraphHandle graph, StreamHandle stream);
  int (*graph_destroy)(GraphHandle graph);  // what is queued still runs

  // The memory is free once the work that is queued on `stream` is done. The simulation then
  // overwrites it. Null in NVIDIA's runtime.
  int (*poison)(void* pointer, size_t bytes, StreamHandle stream);

  const char* (*error_text)(int error);
};

const CudaApi& api();

// Whether an error code says that there is no memory left.
bool is_out_of_memory(int error);

// Throws EnvironmentError "[cuda] WHAT: TEXT" unless `error` is 0.
void check_cuda(int error, const char* what);

}  // namespace lockstep::cuda
