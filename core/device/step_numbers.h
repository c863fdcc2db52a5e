// The numbers of a training step that change from step to step. Kernels read them from memory of
// the device, so that nothing is queued with the value of one step: the host neither waits for a
// norm before it queues the optimizer, nor queues other work when the learning rate changes.
//
//   the host writes        lr, max_norm, unscale and the steps, and sends the whole in one copy
//   Kernels::close_step    computes norm, loss, grad_scale and apply
//   the optimizer's kernel reads lr, step, grad_scale and apply
//   the host reads         norm, loss and apply, after the optimizer was queued
//
// Whoever knows norm and loss on the host already (several ranks whose sums meet there) writes all
// of them.
#pragma once

#include <cstdint>

namespace lockstep {

struct StepNumbers {
  // Largest norm of the gradients; 0 or less does not clip.
  double max_norm = 0;
  // The number of this update, from 1 on. Adam's bias correction counts with it.
  int64_t step = 1;
  // The number of the run's step, by which dropout draws (RandomKey::device_step). It runs ahead of
  // `step` where updates were left out.
  int64_t run_step = 1;
  float lr = 0;
  // 1 / the factor by which the loss was multiplied before backward (1: by none). A power of two,
  // so that it changes no digit. The norm is that of unscaled gradients.
  float unscale = 1;

  // The 2-norm of all gradients, unscaled and before clipping.
  double norm = 0;
  // The sum of the micro-batches' losses in the order of the fixed tree (core/base/sum_tree.h).
  float loss = 0;
  // What the optimizer multiplies gradients by: unscale, times the factor of clipping. NaN if the
  // norm is not finite.
  float grad_scale = 1;
  // 0: norm or loss is not finite, and the optimizer's kernel changes nothing. 1: it updates.
  int32_t apply = 0;
  int32_t reserved = 0;
};
static_assert(sizeof(StepNumbers) == 56 && sizeof(StepNumbers) % sizeof(int64_t) == 0);

// The factor for gradients of norm `norm` so that their norm does not exceed `max_norm`, in double
// up to its last rounding: 1, or as PyTorch's clip_grad_norm_ does. The same operations on a CPU
// and a device, so the same bits. Both arguments are finite.
constexpr float clip_factor(double norm, double max_norm) {
  if (max_norm <= 0.0 || norm <= max_norm) return 1.0f;
  return static_cast<float>(max_norm / (norm + 1e-6));
}

}  // namespace lockstep
