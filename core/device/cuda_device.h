// What a CUDA device provides: memory, queues and kernels to core/device, and to programs which
// devices there are. core/device/no_cuda takes its place in versions without one, so that callers
// need no #ifdef.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device/allocator.h"
#include "core/device/kernels.h"

namespace lockstep::cuda {

// 0 where there is no device or no driver; why_none() then says why.
int device_count();
std::string why_none();
// Whether the devices are simulated on the host (LOCKSTEP_CUDA=SIM).
bool is_simulated();

// The rest throws UsageError if the device is not available, and EnvironmentError if it fails.

struct DeviceInfo {
  std::string model;         // "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int64_t memory_bytes = 0;
  std::string uuid;  // equal for processes that use the same card
};
// Takes no memory of the device.
DeviceInfo info(int index);
// The newest CUDA that the driver knows: "13.0".
std::string driver_version();
// From here on this process uses this device alone. Call it before anything else of a device: each
// device that is touched costs memory there, and pinned memory belongs to the bound one.
void bind(int index);

Allocator& allocator(int index);
Allocator& pinned_allocator();
const Kernels& kernel_table();
const Queue& main_queue(int index);
Queue create_queue(int index);
void synchronize(const Queue& queue);

// Bytes that attention of these arguments needs while it runs, beside its arrays (the addresses are
// not read). The first call for a shape may take seconds.
struct AttentionMemory {
  int64_t forward = 0, backward = 0;
};
AttentionMemory attention_memory(int index, const AttentionArgs& args);

// From here on plans of libraries are kept in this folder and read from it, so that a second start
// need not build them (docs/formats/plans.md). It need not exist. Empty: none are kept.
void keep_plans_in(const std::string& path);

// What libraries chose for the products and attention of this process so far, one sorted line each:
// "product of f32 [8, 16] and [16, 32] …: cuBLASLt 130100, algorithm 21, …".
std::vector<std::string> choices();

// Events; null is done.
std::shared_ptr<void> record(const Queue& queue);
bool done(int index, void* event);
void wait(int index, void* event, const Queue& queue);
void synchronize(int index, void* event);
// From one event that is done to another.
Duration elapsed(int index, void* start, void* end);

// Recorded work (core/device/capture.h). `queue` is one that nobody else uses. Memory of its order
// stays with the graph.
void begin_capture(const Queue& queue);
// Ends the recording. The graph keeps the queue and its memory.
std::shared_ptr<void> end_capture(const Queue& queue);
void drop_capture(const Queue& queue) noexcept;
void launch_graph(void* graph, const Queue& queue);

}  // namespace lockstep::cuda
