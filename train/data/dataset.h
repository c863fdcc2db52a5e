// Dataset: what a model trains on. Which samples a micro-batch holds depends on seed, step and the
// samples' place in the global batch alone, never on ranks, so any rank can make any micro-batch,
// and a run resumes at any step without replaying.
#pragma once

#include <atomic>
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

// Immutable after it was made, but for accept_files(): get() and evaluation() may be called from
// several threads.
class Dataset {
 public:
  virtual ~Dataset() = default;
  // Micro-batch `micro` (counts over all ranks) of `step` (counts from 1).
  // Throws EnvironmentError where the data changed or cannot be read any more; so does
  // evaluation().
  virtual Batch get(int64_t step, int64_t micro) const = 0;
  // Micro-batch `index` of the evaluation: the same samples in every evaluation, of every run, none
  // of them in the training part.
  virtual Batch evaluation(int64_t index) const = 0;
  // A batch of the same shapes that is no data: for a rank that has none and must take part in a
  // step all the same.
  virtual Batch blank() const = 0;

  // One line that is equal for equal data ("text, 4137850 bytes, xxh3 1f3a…"): ranks and resumed
  // runs compare it. Reads all of the data, and gives up with an EnvironmentError once `stop` is
  // true.
  virtual std::string identity(const std::atomic<bool>& stop) const = 0;
  std::string identity() const { return identity(std::atomic<bool>(false)); }
  // The same at once, from samples of the data ("text, 4137850 bytes, 1f3a…"): what the checkpoints
  // of earlier versions hold.
  virtual std::string sampled_identity() const = 0;
  // How many bytes identity() reads.
  virtual int64_t bytes() const { return 0; }
  // As Corpus has them; empty, true and nothing for data without files.
  virtual std::string stamp() const { return {}; }
  virtual bool settled() const { return true; }
  virtual void accept_files() {}
};

// What `config.data` names. Throws UsageError where the data is missing, empty or too short for one
// sample, and says what to do.
std::unique_ptr<Dataset> open_dataset(const Config& config);

}  // namespace lockstep::train
