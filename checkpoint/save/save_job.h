// The steps of a save, both for callers that wait (save) and for others (Saver).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/save/plan.h"
#include "core/tensor/device_copies.h"

namespace lockstep::checkpoint {

// Who writes what. Stays valid as long as the ranks hold the same parts.
struct SavePlan {
  std::vector<std::vector<Part>> held;  // by rank
  Plan plan;
};
// Collective. Throws on all ranks, like save(), if the parts of any rank are wrong.
SavePlan plan_save(comm::ProcessGroup* group, const std::vector<Entry>& entries,
                   int64_t two_files_above = kTwoFilesAbove);

// The parts that this rank holds, as it describes them to other ranks. Throws UsageError for
// tensors that do not fit their shards.
std::vector<Part> parts_of(const std::vector<Entry>& entries);

// What this rank writes, in the order of its files: flat views of the tensors, or copies of those
// that are not contiguous.
std::vector<Tensor> planned_tensors(const SavePlan& plan, int64_t rank,
                                    const std::vector<Entry>& entries);
// This rank's files, from planned_tensors() on the host.
std::vector<FileToWrite> planned_files(const SavePlan& plan, int64_t rank, int64_t step,
                                       const std::string& folder,
                                       const std::vector<Tensor>& tensors);

struct SaveJob {
  std::string dir = {};
  int64_t step = 0;
  int64_t keep = 0;
  std::map<std::string, std::string> metadata = {};
  comm::ProcessGroup* group = nullptr;
  FileSystem* files = nullptr;
  std::string claim = {};  // as in SaveRequest
  const SavePlan* plan = nullptr;
  std::vector<Tensor> tensors = {};  // planned_tensors(), on the host
  std::string problem = {};  // if not empty, this rank could not begin, and all ranks must give up
};
// Waits for copies into job.tensors. If one failed, the job has a problem.
void finish_copies(DeviceCopies& copies, SaveJob& job);
// Collective: writes a temporary folder, agrees, commits by rename. Throws like save().
std::string write_checkpoint(const SaveJob& job);

// For rank 0: removes what earlier saves left unfinished in a folder of checkpoints.
void remove_half_written(FileSystem& files, const std::string& dir);

}  // namespace lockstep::checkpoint
