// A trainer's state in memory that outlives its ranks: what a run keeps there, and how it goes on
// from the newest of that and its checkpoints.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/replica/replica.h"
#include "train/run/checkpoints.h"
#include "train/run/trainer.h"

namespace lockstep::train {

// Where the agent keeps what ranks leave for those that come after them.
struct KeptMemory {
  std::string file;  // empty: there is none, and the replicas go with the process
  int node = 0;      // whose memory it is
};

// Throws UsageError where the config asks for replicas and nothing would keep them.
void check_replicas(const Config& config, bool has_kept_memory);

// The replicas of a run. Used by one thread on each rank.
class Replicas {
 public:
  // Collective. `run`: the run's folder; replicas of another run, config, data or number of ranks
  // are not used.
  Replicas(Trainer& trainer, const std::string& run, const KeptMemory& kept);
  ~Replicas();

  // Collective. Stores the state as it is now: returns once it is copied, and gives how long that
  // took. What went wrong is no exception, but said by ended().
  Duration store();
  // Failures since the last call, one line each.
  std::vector<std::string> ended();
  // Collective. As ReplicaStore's.
  checkpoint::ReplicasFound find() { return store_->find(); }
  checkpoint::ReplicaRestored restore();
  void forget() { store_->forget(); }

 private:
  Trainer& trainer_;
  std::unique_ptr<checkpoint::ReplicaStore> store_;
};

struct ResumeRequest {
  std::string from;  // as RunOptions::resume
  // The ranks were started again: what this very run has comes before `from`.
  bool restarted = false;
  std::string dir;  // its checkpoints
};
// Collective. Continues from the newest of the replicas (null: there are none) and the checkpoints
// below `dir`, else as resume() does. Says on rank 0 why replicas that should be there cannot be
// used. Copies that were not taken are forgotten.
Resumed resume_newest(Trainer& trainer, Replicas* replicas, const ResumeRequest& request);

}  // namespace lockstep::train
