// JobNotes: what the ranks of a job leave for those that are started after them, in a store that
// outlives its epochs.
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
  // `run` tells the runs of one job apart, such as two commands of one script: runs of other names
  // see other notes. `epoch` counts the starts of the ranks.
  JobNotes(std::shared_ptr<comm::Store> store, const std::string& run, int64_t epoch);

  // The note of that name that the ranks of an earlier epoch left; nothing where they left none.
  std::optional<std::string> earlier(const std::string& name) const;
  // Leaves a note for later epochs. A note of an earlier epoch stays as it is.
  void leave(const std::string& name, const std::string& text) const;

 private:
  std::shared_ptr<comm::Store> store_;
  std::string prefix_;
  int64_t epoch_;
};

// The config of a run whose ranks may be started again. In the first epoch it is what `load` gives.
// Later epochs get the one that the run began with, whatever became of the file meanwhile: the same
// rank's; where that rank has left none, rank 0's; else another one's. Rank 0 warns of a file that
// was changed.
Config config_of_job(const JobNotes& notes, int rank, const std::function<Config()>& load);

// Key and value of rank 0's note for the first epoch: whoever starts the ranks of `run` puts it
// into their store (LaunchSpec::job_values), and they begin with this config, whatever becomes of
// the file before they look.
std::pair<std::string, std::string> config_note_for_ranks(const std::string& run,
                                                          const Config& config);

}  // namespace lockstep::train
