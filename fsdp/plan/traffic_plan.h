// TrafficPlan: the bytes that sharded training moves in a step, from layouts and schedule only.
#pragma once

#include "fsdp/mesh.h"
#include "fsdp/options.h"

namespace lockstep::fsdp {

// Bytes that each rank sends in a step; it receives as many. Not included: losses, the gradient
// norm (8 bytes for each 1024 parameters), gathers of evaluations, and each collective's
// fingerprint.
struct TrafficPlan {
  int64_t gathered = 0;  // all_gather: slices of units, for other ranks
  int64_t reduced = 0;   // reduce_scatter: gradients, to their owners
  int64_t replicas = 0;  // all_reduce: sums of gradients between rows
};

// Like plan_memory(): no communication, and the module may have been built without memory. Assumes
// that each pass runs all units once, one after the other, in the order of registration.
TrafficPlan plan_traffic(nn::Module& module, const Place& place, const Assignment& assignment,
                         const Options& options);

}  // namespace lockstep::fsdp
