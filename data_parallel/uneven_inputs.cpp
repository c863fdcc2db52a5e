#include "data_parallel/uneven_inputs.h"

namespace lockstep::data_parallel {

comm::Work UnevenInputs::count(const Tensor& total, comm::ProcessGroup& group, uint64_t label) {
  return group.host().all_reduce(total, {.label = label});
}

int UnevenInputs::begin(bool have_input, const Tensor& total) {
  const int ranks = static_cast<int>(total.item());
  said_.reset();
  if (ranks > 0) said_ = Said{have_input, ranks};
  return ranks;
}

std::string UnevenInputs::contradiction(bool has_input, int rank) const {
  if (!said_ || said_->have_input == has_input) return "";
  return str("rank ", rank, " told active_ranks() that it has ", said_->have_input ? "" : "no ",
             "input, but called ", has_input ? "backward()" : "skip()",
             ": the mean would be over the wrong number of ranks");
}

}  // namespace lockstep::data_parallel
