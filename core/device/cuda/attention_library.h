// Attention by a library: cuDNN (core/device/cuda/toolkit), or the CPU's kernels on the simulated
// device (core/device/cuda/sim).
#pragma once

#include <compare>
#include <string>

#include "core/device/kernels.h"

namespace lockstep::cuda {

enum class AttentionPass : uint8_t { forward, backward };

// What the library's plan for a pass depends on, beside the device.
struct AttentionShape {
  int64_t batch, time, heads, kv_heads, head_dim;
  DType dtype;
  int64_t stride_batch, stride_time, stride_head;  // of q, k and v, in elements
  bool causal;

  auto operator<=>(const AttentionShape&) const = default;
};

AttentionShape shape_of(const AttentionArgs& args);
// Everything in it, in one line without a comma at its end.
std::string text_of(AttentionPass pass, const AttentionShape& shape);

// The arrays of a call (core/device/kernels.h). The forward pass writes out and lse, and the rest
// is null. The backward pass reads them.
struct AttentionCall {
  AttentionArgs args;
  void* out;
  float* lse;
  const void* dout = nullptr;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

struct LibraryAnswer {
  std::string refusal = {};  // why the library does not compute this; empty if it does
  int64_t workspace = 0;     // bytes that one call needs beside its arrays, from a multiple of 256
};

// Whether the library computes a pass of this shape on a device. The first question for a shape may
// take seconds, because it builds the plan. Thread-safe.
LibraryAnswer ask_library(int device, AttentionPass pass, const AttentionShape& shape);

// Queues a pass that ask_library() agreed to. It gives the same bits each time. Throws
// EnvironmentError if the library fails.
void run_library(const Queue& queue, AttentionPass pass, const AttentionCall& call,
                 void* workspace);

// ---- kernels/attention.cu: lockstep's own, for f32 and for what the library does not take ----
void tiled_attention(const Queue& queue, const AttentionArgs& args, void* out, float* lse);
void tiled_attention_backward(const Queue& queue, const AttentionArgs& args, const void* out,
                              const float* lse, const void* dout, void* dq, void* dk, void* dv);
// Bytes that the backward pass needs beside its arrays.
int64_t tiled_attention_memory(const AttentionArgs& args);

}  // namespace lockstep::cuda
