// JobNotes: what the ranks of a job leave for the ranks of later starts, in a store that outlives
// epochs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "comm/store.h"
#include "train/config/config.h"

namespace lockstep::train {

// Thread-safe.
class JobNotes {
 public:
  // `run` separates the runs of one job, such as two commands of one script: each run name has its
  // own notes. `epoch` counts the starts of the ranks.
  JobNotes(std::shared_ptr<comm::Store> store, const std::string& run, int64_t epoch);

  // The note of that name from the ranks of an earlier epoch. Nothing if they left none.
  std::optional<std::string> earlier(const std::string& name) const;
  // Leaves a note for later epochs. Does not change a note of an earlier epoch.
  void leave(const std::string& name, const std::string& text) const;

 private:
  std::shared_ptr<comm::Store> store_;
  std::string prefix_;
  int64_t epoch_;
};

// The config of a run whose ranks may be restarted. In the first epoch it is the result of `load`.
// Later epochs get the config with which the run began, even if the file changed meanwhile: the
// same rank's, else rank 0's, else another rank's. Rank 0 warns if the file was changed.
Config config_of_job(const JobNotes& notes, int rank, const std::function<Config()>& load);

// Key and value of rank 0's note for the first epoch. The process that starts the ranks of `run`
// puts it into their store (LaunchSpec::job_values). The ranks then begin with this config, even if
// the file changes before they read it.
std::pair<std::string, std::string> config_note_for_ranks(const std::string& run,
                                                          const Config& config);

}  // namespace lockstep::train
