// What a reduction of c10d is in lockstep's terms: the operation, and the type in which values
// travel.
#pragma once

#include <string_view>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include "comm/process_group.h"

namespace lockstep::pytorch {

struct Reduction {
  comm::ReduceOp op = comm::ReduceOp::sum;
  bool average = false;  // divide the sum by the number of ranks
};

// Throws UsageError for an operation that lockstep lacks, UnsupportedType for a type that the
// operation does not take. `name`: "all_reduce".
Reduction reduction_of(const c10d::ReduceOp& op, at::ScalarType type, std::string_view name);

// Whether values of `type` are reduced by lockstep. float64 is not: ranks exchange the values and
// reduce them here (reduce_rows).
bool reduces_natively(at::ScalarType type);

// `tensor` in the type in which it travels: itself, a view, or a copy. int8 and int16 travel as
// int32, complex numbers as pairs. Averages of half types travel as float32, so that the sum is
// not rounded before the division. The result is plain.
at::Tensor to_carrier(const at::Tensor& tensor, const Reduction& reduction);

// Divides where an average is asked for, and puts the values of `carrier` into `tensor`.
void from_carrier(const at::Tensor& tensor, const at::Tensor& carrier, const Reduction& reduction,
                  int ranks);

// float64 [ranks, n] → the first row, in the order in which lockstep sums ranks.
at::Tensor reduce_rows(const at::Tensor& rows, const Reduction& reduction);

}  // namespace lockstep::pytorch
