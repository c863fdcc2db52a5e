// TrafficPlan: the bytes that sharded training moves in a step, from layouts and schedule alone.
#pragma once

#include "fsdp/mesh.h"
#include "fsdp/options.h"

namespace lockstep::fsdp {

// Bytes that each rank sends in a step, and as many that it receives. Not counted are the losses
// and the gradient norm (8 bytes for each 1024 parameters), what an evaluation gathers, and each
// collective's fingerprint.
struct TrafficPlan {
  int64_t gathered = 0;  // all_gather: slices of the units that others need
  int64_t reduced = 0;   // reduce_scatter: gradients on their way to their owners
  int64_t replicas = 0;  // all_reduce: sums of gradients between rows
};

// As for plan_memory(): no communication, and the module may have been built without memory. Units
// are taken to run once in each pass, in the order of registration, one after the other.
TrafficPlan plan_traffic(nn::Module& module, const Place& place, const Assignment& assignment,
                         const Options& options);

}  // namespace lockstep::fsdp
