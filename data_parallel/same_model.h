// The check that every data-parallel wrapper needs: all ranks train the same model.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/process_group.h"
#include "core/autograd/variable.h"

namespace lockstep::data_parallel {

using Buffers = std::vector<std::pair<std::string, Tensor>>;

// Collective. Compares names, shapes, dtypes and order over all ranks, and which parameters are
// frozen or have no values yet. If they differ, every rank throws UsageError that names the first
// different entry and two ranks. `wrapper` begins the message: "ddp".
void check_same_model(std::string_view wrapper, const std::vector<Parameter>& parameters,
                      const Buffers& buffers, comm::ProcessGroup& group);

// Throws UsageError for parameters and buffers on another device than the group's. No
// communication.
void check_devices(std::string_view wrapper, const std::vector<Parameter>& parameters,
                   const Buffers& buffers, const comm::ProcessGroup& group);

// "'a', 'b' and 3 more", for messages.
std::string names_of(const std::vector<Parameter>& parameters);

// "rank 1: no gradient reached 'a', 'b' …", and what to do.
std::string no_gradient_reached(int rank, const std::vector<Parameter>& parameters);

}  // namespace lockstep::data_parallel
