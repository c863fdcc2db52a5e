// What libraries chose to compute with, for the record of a run.
#pragma once

#include <string>
#include <vector>

namespace lockstep::cuda {

// Records a choice, as one line "WHAT: HOW" without a line break. Called when it is made, which is
// once for each WHAT. Thread-safe.
void record_choice(const std::string& what, const std::string& how);

}  // namespace lockstep::cuda
