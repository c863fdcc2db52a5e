// A model's buffers (nn::Module::register_buffer) in a run. They are part of its state: one value
// on all ranks between two steps, and saved beside the parameters.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/process_group.h"
#include "core/nn/module.h"

namespace lockstep::train {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// Throws UsageError where a checkpoint could not tell the entries of the model apart: two of one
// name, or a name that begins as those of optimizer states do.
void check_entry_names(const nn::Module& model);

// Collective. All ranks take rank 0's values: a buffer that a forward pass changes differs between
// ranks, which see other micro-batches.
void share_buffers(const NamedTensors& buffers, comm::ProcessGroup& group);

// Puts buffers back as they were when it was made, unless keep() is called: for steps that are
// refused, and for evaluations.
class BufferRollback {
 public:
  explicit BufferRollback(const NamedTensors& buffers);
  ~BufferRollback();
  BufferRollback(const BufferRollback&) = delete;
  BufferRollback& operator=(const BufferRollback&) = delete;
  void keep() { before_.clear(); }

 private:
  std::vector<std::pair<Tensor, Tensor>> before_;  // a buffer, and its values
};

}  // namespace lockstep::train
