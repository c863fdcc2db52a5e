// Puts the ranks' timelines together (docs/formats/trace.md).
#pragma once

#include <string>
#include <vector>

namespace lockstep::train {

struct Merged {
  std::vector<int> ranks = {};    // whose files went into it
  std::vector<int> missing = {};  // of `ranks` that were expected
};

// Writes FILE from the files FILE.rank-N that are there, and removes those. Incomplete lines are
// left out. Writes nothing if there is none. Throws EnvironmentError if FILE cannot be written;
// the parts stay then.
Merged merge_parts(const std::string& file, int ranks);

// Removes what an earlier run left: FILE.rank-N of any N.
void remove_parts(const std::string& file);

// Throws EnvironmentError if FILE cannot be written, before a run begins.
void check_trace_file(const std::string& file);

}  // namespace lockstep::train
