// Dataset: what a model trains on. The samples of a micro-batch depend only on the seed, the step
// and their place in the global batch, never on ranks. So any rank can make any micro-batch, and a
// run resumes at any step without replaying.
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

// Immutable except for accept_files(). Several threads may call get() and evaluation().
class Dataset {
 public:
  virtual ~Dataset() = default;
  // Micro-batch `micro` (counted over all ranks) of `step` (counted from 1). get() and evaluation()
  // throw EnvironmentError if the data changed or cannot be read.
  virtual Batch get(int64_t step, int64_t micro) const = 0;
  // Micro-batch `index` of the evaluation. Every evaluation of every run has the same samples, none
  // of them from the training part.
  virtual Batch evaluation(int64_t index) const = 0;
  // A batch of the same shapes without data, for a rank that has none and must still take part in a
  // step.
  virtual Batch blank() const = 0;

  // One line that is equal for equal data: "text, 4137850 bytes, xxh3 1f3a…". Ranks and resumed
  // runs compare it. Reads all data. Throws EnvironmentError once `stop` is true.
  virtual std::string identity(const std::atomic<bool>& stop) const = 0;
  std::string identity() const { return identity(std::atomic<bool>(false)); }
  // A line from samples of the data, available at once: "text, 4137850 bytes, 1f3a…". Checkpoints
  // of earlier versions hold it.
  virtual std::string sampled_identity() const = 0;
  // Number of bytes that identity() reads.
  virtual int64_t bytes() const { return 0; }
  // As in Corpus. Data without files have an empty stamp, are settled, and accept nothing.
  virtual std::string stamp() const { return {}; }
  virtual bool settled() const { return true; }
  virtual void accept_files() {}
};

// Opens the data that `config.data` names. Throws UsageError that says what to do if the data is
// missing, empty or too short for one sample.
std::unique_ptr<Dataset> open_dataset(const Config& config);

}  // namespace lockstep::train
