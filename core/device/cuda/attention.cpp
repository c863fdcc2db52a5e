// Attention of bf16 and f16 goes to the library where it can, because tensor cores are many times
// as fast as lockstep's own tiles. f32 stays there: the library has none that keeps f32's bits.
#include <cstdint>
#include <initializer_list>
#include <set>
#include <utility>

#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/device/cuda/attention_library.h"
#include "core/device/cuda/choices.h"
#include "core/device/cuda/entries.h"
#include "core/device/cuda/workspace.h"
#include "core/device/cuda_device.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kStep = 8;        // elements; what the library loads at a time
constexpr int64_t kAlignment = 16;  // bytes
constexpr int64_t kMostHeadDim = 256;

// Why the library is not asked; empty if it is.
std::string out_of_reach(const AttentionShape& shape, std::initializer_list<const void*> arrays) {
  if (shape.head_dim % kStep != 0 || shape.head_dim > kMostHeadDim)
    return str("it takes head sizes that are multiples of ", kStep, " up to ", kMostHeadDim);
  bool aligned = shape.stride_batch % kStep == 0 && shape.stride_time % kStep == 0 &&
                 shape.stride_head % kStep == 0;
  for (const void* array : arrays)
    aligned = aligned && reinterpret_cast<uintptr_t>(array) % kAlignment == 0;
  return aligned ? "" : str("it takes arrays that are aligned to ", kAlignment, " bytes");
}

// Says once for each shape that slower kernels run in the library's place.
void say_slower(AttentionPass pass, const AttentionShape& shape, const std::string& reason) {
  static Mutex mutex;
  static auto* said = new std::set<std::pair<AttentionPass, AttentionShape>>;
  {
    const MutexLock lock(mutex);
    if (!said->emplace(pass, shape).second) return;
  }
  record_choice(text_of(pass, shape), "lockstep's own kernels");
  log::warn("[attention] slower kernels compute ", text_of(pass, shape),
            " because cuDNN does not: ", reason);
}

// Whether the library has queued the pass.
bool by_library(const Queue& queue, AttentionPass pass, const AttentionCall& call) {
  const AttentionArgs& a = call.args;
  if (a.dtype != DType::bf16 && a.dtype != DType::f16) return false;
  const AttentionShape shape = shape_of(a);
  std::string refusal =
      out_of_reach(shape, {a.q, a.k, a.v, call.out, call.dout, call.dq, call.dk, call.dv});
  if (refusal.empty()) {
    LibraryAnswer answer = ask_library(queue.device().index, pass, shape);
    if (answer.refusal.empty()) {
      const Workspace workspace(queue, static_cast<size_t>(answer.workspace));
      run_library(queue, pass, call, workspace.as<void>());
      return true;
    }
    refusal = std::move(answer.refusal);
  }
  say_slower(pass, shape, refusal);
  return false;
}

bool is_empty(const AttentionArgs& args) { return args.batch == 0 || args.time == 0; }

}  // namespace

AttentionShape shape_of(const AttentionArgs& args) {
  return {args.batch, args.time,         args.heads,       args.kv_heads,    args.head_dim,
          args.dtype, args.stride_batch, args.stride_time, args.stride_head, args.causal};
}

std::string text_of(AttentionPass pass, const AttentionShape& s) {
  return str("attention's ", pass == AttentionPass::forward ? "forward" : "backward", " pass of ",
             s.dtype, "[", s.batch, ", ", s.time, ", ", s.heads, ", ", s.head_dim, "] with ",
             s.kv_heads, " key heads and strides ", s.stride_batch, ", ", s.stride_time, ", ",
             s.stride_head, s.causal ? ", causal" : "");
}

void attention(const Queue& queue, const AttentionArgs& args, void* out, float* lse) {
  if (is_empty(args)) return;
  if (!by_library(queue, AttentionPass::forward, {args, out, lse}))
    tiled_attention(queue, args, out, lse);
}

void attention_backward(const Queue& queue, const AttentionArgs& args, const void* out,
                        const float* lse, const void* dout, void* dq, void* dk, void* dv) {
  if (is_empty(args)) return;
  const AttentionCall call{args, const_cast<void*>(out), const_cast<float*>(lse), dout, dq, dk, dv};
  if (!by_library(queue, AttentionPass::backward, call))
    tiled_attention_backward(queue, args, out, lse, dout, dq, dk, dv);
}

AttentionMemory attention_memory(int index, const AttentionArgs& args) {
  const AttentionShape shape = shape_of(args);
  const auto memory_of = [&](AttentionPass pass) {
    if (args.dtype != DType::f32 && out_of_reach(shape, {}).empty())
      if (const LibraryAnswer answer = ask_library(index, pass, shape); answer.refusal.empty())
        return answer.workspace;
    return pass == AttentionPass::forward ? 0 : tiled_attention_memory(args);
  };
  return {.forward = memory_of(AttentionPass::forward),
          .backward = memory_of(AttentionPass::backward)};
}

}  // namespace lockstep::cuda
