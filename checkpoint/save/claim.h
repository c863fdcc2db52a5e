// Claims: which start of the ranks may write to a folder of checkpoints. The ranks of an earlier
// epoch may still live, on a host that was cut off. A claim is an empty folder
// ".epoch-RUN-NNNNNNNN". Whoever finds that its own is gone must not commit any more.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/files/file_system.h"

namespace lockstep::checkpoint {

// Claims the folder for an epoch of a job, takes it from any other, and removes what was left
// half-written: whoever writes that can no longer commit it. `run`: identifies the job; each start
// of its ranks has a higher `epoch`. Returns the claim. For rank 0. Throws EnvironmentError if a
// later epoch of the same job has the folder.
std::string claim_folder(FileSystem& files, const std::string& dir, const std::string& run,
                         int64_t epoch);

// Throws EnvironmentError if somebody else has claimed the folder since. An empty claim is none.
void require_claim(FileSystem& files, const std::string& dir, const std::string& claim);

}  // namespace lockstep::checkpoint
