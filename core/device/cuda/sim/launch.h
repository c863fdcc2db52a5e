// How launch.h reaches the simulated device.
#pragma once

#include <cstdint>
#include <functional>

namespace lockstep::cuda::sim {

// Queues a kernel on `stream`. `thread` runs once for each thread of the grid. Throws UsageError
// for a grid that no device takes. If `together`, the threads of a block run as fibers in a random
// order between barriers. Otherwise one runs after the other, and a barrier, shuffle or exchange
// ends the program with the kernel's name.
void launch(const char* name, void* stream, int64_t blocks, int threads, bool together,
            std::function<void()> thread);

// Queues a function of the host, which runs when a kernel in its place would. It may touch the
// memory of all devices, on the thread that calls it and in parallel_for(). It calls no function of
// the CudaApi. Products by the CPU's kernels and simulated collectives are such functions. Throws
// EnvironmentError for a stream that does not exist. An exception that `run` throws fails all later
// calls of the CudaApi.
void enqueue(const char* name, void* stream, std::function<void()> run);
// The function runs once ready() returns true, and holds up only its own stream until then. ready()
// is called often, by any thread, with the runtime's lock held: it is quick and calls nothing of
// this file and of the CudaApi. If something that happened makes it true, call wake(): a waiting
// thread sees it at once then, and otherwise within a millisecond.
void enqueue(const char* name, void* stream, std::function<bool()> ready,
             std::function<void()> run);
void wake();

}  // namespace lockstep::cuda::sim
