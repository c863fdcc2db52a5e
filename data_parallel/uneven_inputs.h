// UnevenInputs: which ranks still have input in a step of one micro-batch a rank. Ranks without
// input contribute zeros, and the mean is over the ranks with input.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/process_group.h"

namespace lockstep::data_parallel {

// Used by one thread.
class UnevenInputs {
 public:
  // Starts the collective that counts the ranks with input. It runs over the group's host().
  static comm::Work count(const Tensor& total, comm::ProcessGroup& group, uint64_t label);
  // This rank's entry in the count, i32 [1].
  static Tensor entry(bool have_input) { return Tensor::full({1}, have_input ? 1 : 0, DType::i32); }

  // Stores the total for the next step and returns it.
  int begin(bool have_input, const Tensor& total);
  void end_step() { said_.reset(); }

  // Whether begin() was called for this step, with at least one rank that has input.
  bool counted() const { return said_.has_value(); }
  // The number of micro-batches in the mean: `all` in a step without a count.
  int64_t terms(int64_t all) const { return said_ ? said_->ranks : all; }
  // Describes the error if this rank now continues with or without input against its announcement,
  // which would give a mean over the wrong number of ranks. Empty if all is well.
  std::string contradiction(bool has_input, int rank) const;

 private:
  struct Said {
    bool have_input;
    int ranks;  // ranks with input
  };
  std::optional<Said> said_;
};

}  // namespace lockstep::data_parallel
