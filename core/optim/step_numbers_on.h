// StepNumbersOn: a step's numbers (core/device/step_numbers.h) in memory of a device, and their
// ways there and back.
//
//   numbers.send({.max_norm = 1.0, .step = optimizer.steps() + 1, .lr = 3e-4f});
//   kernels(device).close_step(queue, {…, .numbers = numbers.on_device()});
//   numbers.fetch();
//   optimizer.step(numbers);                    queued; nobody has waited yet
//   if (!numbers.read().apply) optimizer.forget_step();
//
// Everything is queued on the device's current queue. Not thread-safe.
#pragma once

#include "core/device/step_numbers.h"
#include "core/tensor/tensor.h"

namespace lockstep::optim {

class StepNumbersOn {
 public:
  explicit StepNumbersOn(Device device);

  Device device() const { return there_.device(); }
  // Valid as long as this object.
  StepNumbers* on_device() const;

  // Queues the copy of all numbers to the device. Never waits.
  void send(const StepNumbers& numbers) const;
  // Queues the copy to the host, for read().
  void fetch();
  // The numbers at the last fetch(), for which it waits.
  StepNumbers read() const;

 private:
  Tensor there_;  // i64: the bits of StepNumbers
  Tensor host_;   // pinned; on a CPU the same tensor
  Event fetched_;
};

}  // namespace lockstep::optim
