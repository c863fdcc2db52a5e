// Optimizers in one pass over the memory. Each element goes through the operations of
// core/device/cpu/isa/optimizer.cpp, with fused multiply-adds where the CPU has them.
#include <cmath>

#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/many.h"

namespace lockstep::cuda {
namespace {

constexpr int kFloats = kPack<float>;

// x^n, by squaring, as on a CPU.
__host__ __device__ double power(double x, int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, x *= x)
    if (n % 2) result *= x;
  return result;
}

struct AdamW {
  float* param;
  const float* grad;
  float *exp_avg, *exp_avg_sq;
  float beta1, beta2, eps, grad_scale;
  float shrink, coupled;  // weight decay: of the parameter, and through the gradient
  float step_size, inverse_root2;

  __host__ __device__ explicit AdamW(const AdamWArgs& a)
      : param(a.param),
        grad(a.grad),
        exp_avg(a.exp_avg),
        exp_avg_sq(a.exp_avg_sq),
        beta1(a.beta1),
        beta2(a.beta2),
        eps(a.eps),
        grad_scale(a.grad_scale),
        shrink(a.decoupled_decay ? 1.0f - a.lr * a.weight_decay : 1.0f),
        coupled(a.decoupled_decay ? 0.0f : a.weight_decay),
        step_size(a.lr / static_cast<float>(1.0 - power(a.beta1, a.step))),
        inverse_root2(1.0f / sqrtf(static_cast<float>(1.0 - power(a.beta2, a.step)))) {}

  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> p = load<N>(param + i), m = load<N>(exp_avg + i), v = load<N>(exp_avg_sq + i);
    const Pack<float, N> gradient = load<N>(grad + i);
    for (int j = 0; j < N; ++j) {
      const float g = fmaf(gradient.at[j], grad_scale, p.at[j] * coupled);
      m.at[j] = fmaf(beta1, m.at[j], (1.0f - beta1) * g);
      v.at[j] = fmaf(beta2, v.at[j], (1.0f - beta2) * g * g);
      const float divisor = fmaf(sqrtf(v.at[j]), inverse_root2, eps);
      p.at[j] = fmaf(p.at[j], shrink, -(step_size * m.at[j] / divisor));
    }
    store<N>(exp_avg + i, m);
    store<N>(exp_avg_sq + i, v);
    store<N>(param + i, p);
  }
};

struct Sgd {
  float* param;
  const float* grad;
  float* buffer;
  float lr, momentum, weight_decay, grad_scale;
  bool nesterov, first_step;

  template <int N>
  __device__ void run(int64_t i) const {
    Pack<float, N> p = load<N>(param + i), g = load<N>(grad + i), b{};
    for (int j = 0; j < N; ++j) g.at[j] = fmaf(g.at[j], grad_scale, weight_decay * p.at[j]);
    if (buffer) {
      if (!first_step) b = load<N>(buffer + i);
      for (int j = 0; j < N; ++j) {
        b.at[j] = first_step ? g.at[j] : fmaf(momentum, b.at[j], g.at[j]);
        g.at[j] = nesterov ? fmaf(momentum, b.at[j], g.at[j]) : b.at[j];
      }
      store<N>(buffer + i, b);
    }
    for (int j = 0; j < N; ++j) p.at[j] = fmaf(-lr, g.at[j], p.at[j]);
    store<N>(param + i, p);
  }
};

template <class... P>
__device__ bool aligned_all(P... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % alignof(Pack<float, kFloats>) == 0) && ...);
}

__global__ void __launch_bounds__(kManyThreads) adamw_many_kernel(AdamWManyArgs args) {
  const StepNumbers& numbers = *args.numbers;
  if (!numbers.apply) return;
  for (int64_t piece = blockIdx.x; piece < args.pieces; piece += gridDim.x) {
    const AdamWRow& row = row_of_piece(args.rows, args.count, piece);
    const AdamW f({.n = row.n,
                   .param = row.param,
                   .grad = row.grad,
                   .exp_avg = row.exp_avg,
                   .exp_avg_sq = row.exp_avg_sq,
                   .lr = numbers.lr,
                   .beta1 = args.beta1,
                   .beta2 = args.beta2,
                   .eps = args.eps,
                   .weight_decay = row.weight_decay,
                   .decoupled_decay = args.decoupled_decay,
                   .step = numbers.step - row.missed,
                   .grad_scale = numbers.grad_scale});
    const int64_t first = (piece - row.first_piece) * kManyPiece;
    const int64_t end = row.n - first < kManyPiece ? row.n : first + kManyPiece;
    run_piece<kFloats>(first, end, aligned_all(f.param, f.grad, f.exp_avg, f.exp_avg_sq), f);
  }
}

__global__ void __launch_bounds__(kManyThreads) sgd_many_kernel(SgdManyArgs args) {
  const StepNumbers& numbers = *args.numbers;
  if (!numbers.apply) return;
  for (int64_t piece = blockIdx.x; piece < args.pieces; piece += gridDim.x) {
    const SgdRow& row = row_of_piece(args.rows, args.count, piece);
    const Sgd f{row.param,          row.grad,      row.momentum_buffer,
                numbers.lr,         args.momentum, row.weight_decay,
                numbers.grad_scale, args.nesterov, false};
    const int64_t first = (piece - row.first_piece) * kManyPiece;
    const int64_t end = row.n - first < kManyPiece ? row.n : first + kManyPiece;
    run_piece<kFloats>(first, end, aligned_all(f.param, f.grad, f.buffer), f);
  }
}

Grid grid_of_pieces(int64_t pieces) {
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  return {std::min(pieces, kMostBlocks), kManyThreads};
}

}  // namespace

void adamw_many(const Queue& queue, const AdamWManyArgs& args) {
  launch("adamw_many", queue, grid_of_pieces(args.pieces), Threads::independent, adamw_many_kernel,
         args);
}

void sgd_many(const Queue& queue, const SgdManyArgs& args) {
  launch("sgd_many", queue, grid_of_pieces(args.pieces), Threads::independent, sgd_many_kernel,
         args);
}

void adamw(const Queue& queue, const AdamWArgs& args) {
  const AdamW f(args);
  const bool aligned = is_aligned<kFloats>(f.param) && is_aligned<kFloats>(f.grad) &&
                       is_aligned<kFloats>(f.exp_avg) && is_aligned<kFloats>(f.exp_avg_sq);
  for_elements<kFloats>("adamw", queue, args.n, aligned, f);
}

void sgd(const Queue& queue, const SgdArgs& args) {
  const Sgd f{args.param,      args.grad,     args.momentum_buffer,
              args.lr,         args.momentum, args.weight_decay,
              args.grad_scale, args.nesterov, args.first_step};
  const bool aligned = is_aligned<kFloats>(f.param) && is_aligned<kFloats>(f.grad) &&
                       is_aligned<kFloats>(f.buffer);  // no buffer is aligned, too
  for_elements<kFloats>("sgd", queue, args.n, aligned, f);
}

}  // namespace lockstep::cuda
