// Attention of the simulated device comes from the CPU's kernels, in f32: the simulation is about
// order and memory, and cuDNN's own bits cannot be had without a GPU.
#include <algorithm>
#include <vector>

#include "core/base/half.h"
#include "core/device/cuda/attention_library.h"
#include "core/device/cuda/choices.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/stream.h"

namespace lockstep::cuda {
namespace {

// One word for each row of scores. The stand-in writes there, so that memory shows that somebody
// else uses meanwhile.
int64_t words_of(const AttentionArgs& args) { return args.batch * args.heads * args.time; }

// The whole extent of q, k and v, which lie between each other.
struct Packed {
  explicit Packed(const AttentionArgs& a)
      : size((a.batch - 1) * a.stride_batch + (a.time - 1) * a.stride_time) {}
  int64_t size;  // elements from the first row's start to the last one's

  // Copies heads in and out of an f32 array that has the strides of the call.
  template <class T, class F>
  void each(const AttentionArgs& a, int64_t heads, T* from, float* to, const F& f) const {
    for (int64_t b = 0; b < a.batch; ++b)
      for (int64_t t = 0; t < a.time; ++t)
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t at = b * a.stride_batch + t * a.stride_time + h * a.stride_head;
          for (int64_t d = 0; d < a.head_dim; ++d) f(from[at + d], to[at + d]);
        }
  }
  int64_t extent(const AttentionArgs& a, int64_t heads) const {
    return size + (heads - 1) * a.stride_head + a.head_dim;
  }
};

template <class T>
std::vector<float> read(const void* from, int64_t count) {
  const auto* values = static_cast<const T*>(from);
  return {values, values + count};
}

template <class T>
void write(const std::vector<float>& from, void* to) {
  std::transform(from.begin(), from.end(), static_cast<T*>(to), [](float x) { return T(x); });
}

// The CPU's kernels on floats in the strides of the call.
template <class T>
void compute(AttentionPass pass, const AttentionCall& call) {
  AttentionArgs a = call.args;
  const Packed packed(a);
  const auto load = [&](const void* from, int64_t heads) {
    std::vector<float> values(static_cast<size_t>(packed.extent(a, heads)));
    packed.each(a, heads, static_cast<const T*>(from), values.data(),
                [](const T& x, float& y) { y = x; });
    return values;
  };
  const auto store = [&](std::vector<float>& values, void* to, int64_t heads) {
    packed.each(a, heads, static_cast<T*>(to), values.data(), [](T& x, float& y) { x = T(y); });
  };
  const std::vector<float> q = load(a.q, a.heads), k = load(a.k, a.kv_heads),
                           v = load(a.v, a.kv_heads);
  const int64_t outputs = a.batch * a.time * a.heads * a.head_dim;
  a.dtype = DType::f32;
  a.q = q.data();
  a.k = k.data();
  a.v = v.data();
  const Queue& queue = current_queue(kCpu);
  if (pass == AttentionPass::forward) {
    std::vector<float> out(static_cast<size_t>(outputs));
    kernels(kCpu).attention(queue, a, out.data(), call.lse);
    return write<T>(out, call.out);
  }
  const std::vector<float> out = read<T>(call.out, outputs), dout = read<T>(call.dout, outputs);
  std::vector<float> dq(q.size()), dk(k.size()), dv(v.size());
  kernels(kCpu).attention_backward(queue, a, out.data(), call.lse, dout.data(), dq.data(),
                                   dk.data(), dv.data());
  store(dq, call.dq, a.heads);
  store(dk, call.dk, a.kv_heads);
  store(dv, call.dv, a.kv_heads);
}

}  // namespace

LibraryAnswer ask_library(int, AttentionPass pass, const AttentionShape& shape) {
  // As some of cuDNN's engines: head sizes over 128 have no backward pass.
  constexpr int64_t kMostBackward = 128;
  if (pass == AttentionPass::backward && shape.head_dim > kMostBackward)
    return {.refusal = "the simulated library has no engine for this head size"};
  return {.workspace = shape.batch * shape.heads * shape.time * int64_t{sizeof(float)}};
}

void run_library(const Queue& queue, AttentionPass pass, const AttentionCall& call,
                 void* workspace) {
  record_choice(text_of(pass, shape_of(call.args)), "the CPU's kernels");
  const char* name = pass == AttentionPass::forward ? "attention" : "attention_backward";
  sim::enqueue(name, stream_of(queue), [pass, call, workspace] {
    std::fill_n(static_cast<float*>(workspace), words_of(call.args), 0.0f);
    if (call.args.dtype == DType::bf16) return compute<BFloat16>(pass, call);
    compute<Float16>(pass, call);
  });
}

}  // namespace lockstep::cuda
