// Dataset: what a model trains on. Which samples a micro-batch holds depends on seed, step and the samples' place in the global
// batch alone, never on ranks, so any rank can make any micro-batch, and a run resumes at any step without replaying.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/tensor/tensor.h"
#include "train/config/config.h"

namespace lockstep::train {

// On the host. M = train.micro_batch.
struct Batch {
  Tensor inputs;   // gpt: i32 [M, block] tokens; mlp: f32 [M, block] features
  Tensor targets;  // gpt: i32 [M, block], the next tokens; mlp: i32 [M] classes
};

// Immutable after it was made: get() and evaluation() may be called from several threads.
class Dataset {
 public:
  virtual ~Dataset() = default;
  // Micro-batch `micro` (counts over all ranks) of `step` (counts from 1).
  virtual Batch get(int64_t step, int64_t micro) const = 0;
  // Micro-batch `index` of the evaluation: the same samples in every evaluation, of every run, none of them in the training part.
  virtual Batch evaluation(int64_t index) const = 0;
  // One line that is equal for equal data ("text, 4137850 bytes, 1f3a…"): ranks and resumed runs compare it.
  virtual std::string identity() const = 0;
};

// What `config.data` names. Throws UsageError where the data is missing, empty or too short for one sample, and says what to do.
std::unique_ptr<Dataset> open_dataset(const Config& config);

}  // namespace lockstep::train
