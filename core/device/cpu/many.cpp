#include "core/device/cpu/many.h"

#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "core/base/sum_tree.h"
#include "core/device/cpu/table.h"

namespace lockstep::cpu {
namespace {

const Queue& queue() {
  static const Queue cpu{kCpu};
  return cpu;
}

template <class T>
T tree_sum(const T* values, int64_t n) {
  std::vector<T> sums(values, values + n);
  return n == 0 ? T{} : sum_tree::combine(sums.data(), n, std::plus<T>());
}

}  // namespace

void square_sums_many(const SquareSumsManyArgs& args) {
  for (const SquareSumsRow& row : std::span(args.rows, static_cast<size_t>(args.count)))
    kernel_table().square_sums(queue(), args.dtype, row.n, row.x, row.sums);
}

void adamw_many(const AdamWManyArgs& args) {
  const StepNumbers& numbers = *args.numbers;
  if (!numbers.apply) return;
  for (const AdamWRow& row : std::span(args.rows, static_cast<size_t>(args.count)))
    kernel_table().adamw(queue(), {.n = row.n,
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
}

void sgd_many(const SgdManyArgs& args) {
  const StepNumbers& numbers = *args.numbers;
  if (!numbers.apply) return;
  for (const SgdRow& row : std::span(args.rows, static_cast<size_t>(args.count)))
    kernel_table().sgd(queue(), {.n = row.n,
                                 .param = row.param,
                                 .grad = row.grad,
                                 .momentum_buffer = row.momentum_buffer,
                                 .lr = numbers.lr,
                                 .momentum = args.momentum,
                                 .weight_decay = row.weight_decay,
                                 .nesterov = args.nesterov,
                                 .first_step = false,
                                 .grad_scale = numbers.grad_scale});
}

void close_step(const CloseStepArgs& args) {
  StepNumbers& numbers = *args.numbers;
  numbers.norm = std::sqrt(tree_sum(args.square_sums, args.blocks)) * numbers.unscale;
  numbers.loss = tree_sum(args.losses, args.leaves);
  numbers.apply = std::isfinite(numbers.norm) && std::isfinite(numbers.loss);
  numbers.grad_scale = std::isfinite(numbers.norm)
                           ? clip_factor(numbers.norm, numbers.max_norm) * numbers.unscale
                           : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace lockstep::cpu
