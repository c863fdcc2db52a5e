// The numbers of a step, from sums that are on the device already. Sums are added in the order of
// the fixed tree: where there are more than one block adds, a launch first adds each kBlockTerms of
// them, which are whole nodes of the tree, and the next launch adds those sums.
#include <cmath>

#include "core/device/cuda/entries.h"
#include "core/device/cuda/kernels/block.h"
#include "core/device/cuda/workspace.h"

namespace lockstep::cuda {
namespace {

constexpr int kSumThreads = 256;
constexpr int kThreadTerms = 4;
constexpr int64_t kBlockTerms = kSumThreads * kThreadTerms;

// The sum of the terms in [first, first + kBlockTerms) of n, by all threads of a block. A missing
// term counts as 0, which changes no bit of a sum.
template <class A>
__device__ A sum_of_block(const A* terms, int64_t n, int64_t first) {
  A mine[kThreadTerms];
  for (int j = 0; j < kThreadTerms; ++j) {
    const int64_t i = first + int64_t{threadIdx.x} * kThreadTerms + j;
    mine[j] = i < n ? terms[i] : A{};
  }
  return block_sum<kSumThreads>((mine[0] + mine[1]) + (mine[2] + mine[3]));
}

template <class A>
__global__ void __launch_bounds__(kSumThreads) tree_level_kernel(int64_t n, const A* in, A* out) {
  const A sum = sum_of_block(in, n, int64_t{blockIdx.x} * kBlockTerms);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// The terms that are left when one block can add them.
template <class A>
struct Terms {
  const A* data;
  int64_t n;
};

constexpr int64_t blocks_of(int64_t n) { return (n + kBlockTerms - 1) / kBlockTerms; }

// `work` has room for the sums of all levels (level_room).
template <class A>
Terms<A> add_levels(const Queue& queue, Terms<A> terms, A* work) {
  while (terms.n > kBlockTerms) {
    const int64_t blocks = blocks_of(terms.n);
    launch("tree_level", queue, {blocks, kSumThreads}, Threads::together, tree_level_kernel<A>,
           terms.n, terms.data, work);
    terms = {work, blocks};
    work += blocks;
  }
  return terms;
}
int64_t level_room(int64_t n) {
  int64_t room = 0;
  for (; n > kBlockTerms; room += n) n = blocks_of(n);
  return room;
}

__global__ void __launch_bounds__(kSumThreads)
    close_step_kernel(Terms<double> squares, Terms<float> losses, StepNumbers* numbers) {
  const double square = sum_of_block(squares.data, squares.n, 0);
  const float loss = sum_of_block(losses.data, losses.n, 0);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(square) * static_cast<double>(numbers->unscale);
  const bool finite = norm - norm == 0.0;
  numbers->norm = norm;
  numbers->loss = loss;
  numbers->apply = finite && loss - loss == 0.0f;
  numbers->grad_scale =
      finite ? clip_factor(norm, numbers->max_norm) * numbers->unscale : static_cast<float>(NAN);
}

}  // namespace

void close_step(const Queue& queue, const CloseStepArgs& args) {
  const int64_t doubles = level_room(args.blocks), floats = level_room(args.leaves);
  const Workspace work(queue, static_cast<size_t>(doubles) * sizeof(double) +
                                  static_cast<size_t>(floats) * sizeof(float) + 1);
  const auto squares =
      add_levels<double>(queue, {args.square_sums, args.blocks}, work.as<double>());
  const auto losses = add_levels<float>(queue, {args.losses, args.leaves},
                                        reinterpret_cast<float*>(work.as<double>() + doubles));
  launch("close_step", queue, {1, kSumThreads}, Threads::together, close_step_kernel, squares,
         losses, args.numbers);
}

}  // namespace lockstep::cuda
