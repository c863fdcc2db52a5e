// The steps of a save, for those that wait for it (save) and those that do not (Saver).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/save/plan.h"
#include "core/tensor/device_copies.h"

namespace lockstep::checkpoint {

// Who writes what. Stays good as long as the ranks hold the same parts.
struct SavePlan {
  std::vector<std::vector<Part>> held;  // by rank
  Plan plan;
};
// Collective. Throws on all ranks, as save() does, where parts are wrong on one.
SavePlan plan_save(comm::ProcessGroup* group, const std::vector<Entry>& entries,
                   int64_t two_files_above = kTwoFilesAbove);

// What this rank holds, as other ranks would hear it. Throws UsageError for tensors that do not fit
// their shards.
std::vector<Part> parts_of(const std::vector<Entry>& entries);

// What this rank writes, in the order of its files: flat views, where they lie, or copies of
// tensors that are not contiguous.
std::vector<Tensor> planned_tensors(const SavePlan& plan, int64_t rank,
                                    const std::vector<Entry>& entries);
// This rank's files, made of planned_tensors() on the host.
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
  const SavePlan* plan = nullptr;
  std::vector<Tensor> tensors = {};  // planned_tensors(), on the host
  std::string problem = {};  // not empty: this rank could not even begin, and all must give up
};
// Waits for copies into job.tensors. Where one failed, the job has a problem.
void finish_copies(DeviceCopies& copies, SaveJob& job);
// Collective: write aside, agree, commit by rename. Returns the folder; throws as save() does.
std::string write_checkpoint(const SaveJob& job);

// Rank 0's: removes what earlier saves left half done in a folder of checkpoints.
void remove_half_written(FileSystem& files, const std::string& dir);

}  // namespace lockstep::checkpoint
