// UnevenInputs: which ranks still have input in a step of one micro-batch a rank. The ranks without
// take part with zeros, and the mean is over those that have some.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/process_group.h"

namespace lockstep::data_parallel {

// Used by one thread.
class UnevenInputs {
 public:
  // The collective that counts the ranks with input. It goes over the group's host().
  static comm::Work count(const Tensor& total, comm::ProcessGroup& group, uint64_t label);
  // This rank's entry in the count, i32 [1].
  static Tensor entry(bool have_input) { return Tensor::full({1}, have_input ? 1 : 0, DType::i32); }

  // Takes in the total for the step to come. Returns it.
  int begin(bool have_input, const Tensor& total);
  void end_step() { said_.reset(); }

  // Whether begin() was called for this step, with at least one rank that has input.
  bool counted() const { return said_.has_value(); }
  // How many micro-batches the mean is over: `all` in a step without a count.
  int64_t terms(int64_t all) const { return said_ ? said_->ranks : all; }
  // What is wrong if this rank now goes on with input or without it; empty where it does as it
  // said. Otherwise the mean would be over the wrong number of ranks.
  std::string contradiction(bool has_input, int rank) const;

 private:
  struct Said {
    bool have_input;
    int ranks;  // that have some
  };
  std::optional<Said> said_;
};

}  // namespace lockstep::data_parallel
