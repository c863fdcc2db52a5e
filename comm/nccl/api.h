// The calls of NCCL that this project uses, as a table of functions. comm/nccl/toolkit fills it
// from NVIDIA's library, comm/nccl/sim from a simulated one (LOCKSTEP_CUDA=SIM). No type of
// NVIDIA's headers appears here, so the simulation builds without them.
//
// Every function but those that return text returns a result: kSuccess, kInProgress or an error,
// which error_text() puts into words. Communicators do not block: after a call that returns
// kInProgress, state() says how it went, and nothing else may be called until it says so. Work is
// queued on a stream, whose device is the calling thread's current one. All are thread-safe, but
// one communicator is used by one thread at a time.
#pragma once

#include <array>
#include <cstddef>

#include "comm/process_group.h"
#include "core/base/dtype.h"

namespace lockstep::comm::nccl {

using CommHandle = void*;
using StreamHandle = void*;

// What one rank makes and all of them need to meet.
struct UniqueId {
  std::array<char, 128> bytes{};
};

inline constexpr int kSuccess = 0;
inline constexpr int kRemoteError = 6;  // a peer failed or has gone
inline constexpr int kInProgress = 7;

struct NcclApi {
  int (*version)(int* version);  // 22809 for 2.28.9
  int (*unique_id)(UniqueId* id);
  // `name` is for NCCL's own logs.
  int (*init)(CommHandle* comm, int size, const UniqueId& id, int rank, const char* name);
  // Of the communicator: kSuccess, kInProgress, or the error that has ended it.
  int (*state)(CommHandle comm, int* state);
  int (*finalize)(CommHandle comm);  // before destroy(): waits, in progress, for what is queued
  int (*destroy)(CommHandle comm);
  // Ends what runs and frees the communicator. May block until the device has passed what is
  // queued.
  int (*abort)(CommHandle comm);

  // What is called between them by one thread is one unit.
  int (*group_start)();
  int (*group_end)();

  // count: elements of this rank's slice, or of the whole where there are no slices. In place as
  // Backend's calls are. Sums of f32, f16, bf16, i64, i32 and u8, by sum, product, min and max.
  int (*all_reduce)(const void* in, void* out, size_t count, DType dtype, ReduceOp op,
                    CommHandle comm, StreamHandle stream);
  int (*reduce_scatter)(const void* in, void* out, size_t count, DType dtype, ReduceOp op,
                        CommHandle comm, StreamHandle stream);
  int (*reduce)(const void* in, void* out, size_t count, DType dtype, ReduceOp op, int root,
                CommHandle comm, StreamHandle stream);
  int (*all_gather)(const void* in, void* out, size_t bytes, CommHandle comm, StreamHandle stream);
  int (*broadcast)(const void* in, void* out, size_t bytes, int root, CommHandle comm,
                   StreamHandle stream);
  int (*send)(const void* in, size_t bytes, int peer, CommHandle comm, StreamHandle stream);
  int (*recv)(void* out, size_t bytes, int peer, CommHandle comm, StreamHandle stream);

  const char* (*error_text)(int result);
  // NCCL's own words on the last error of this thread or communicator; may be empty.
  const char* (*last_error)(CommHandle comm);
};

// Throws EnvironmentError if the library is missing or does not fit. The message names it.
const NcclApi& api();

// What follows the version in texts: " (simulated)", or nothing.
const char* api_kind();

}  // namespace lockstep::comm::nccl
