// The graphs of attention for cuDNN: forward with the rows' log-sum-exp, and backward.
#pragma once

#include <memory>

#include "core/device/cuda/attention_library.h"
#include "core/device/cuda/toolkit/cudnn/graph.h"
#include "core/device/cuda/toolkit/cudnn/plan.h"

namespace lockstep::cuda::cudnn {

// What the caller names when a graph runs. q, k, v and their gradients have the shape's strides.
// out and dout are [B, T, H, D], dense; lse and delta f32 [B, H, T]. delta is working memory.
enum AttentionId : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLse,
  kScale,   // the factor of the scores, on the host
  kHidden,  // the score of a key that a query does not see: −infinity, on the host
  kDout,
  kDelta,
  kDq,
  kDk,
  kDv
};

// The plan of a pass. Throws EnvironmentError if there is none.
Plan attention_plan(AttentionPass pass, const AttentionShape& shape,
                    const DeviceDescription& device);

// Throw EnvironmentError where cuDNN refuses the graph.
std::unique_ptr<Graph> forward_graph(const AttentionShape& shape);
std::unique_ptr<Graph> backward_graph(const AttentionShape& shape);

}  // namespace lockstep::cuda::cudnn
