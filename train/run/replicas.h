// A trainer's state in memory that outlives its ranks: what a run keeps there, and how it resumes
// from the newest of this state and its checkpoints.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/replica/replica.h"
#include "train/run/checkpoints.h"
#include "train/run/trainer.h"

namespace lockstep::train {

// Where the agent keeps what ranks leave for later ranks.
struct KeptMemory {
  std::string file;  // empty: none, and replicas end with the process
  int node = 0;      // the node that has the memory
};

// Throws UsageError if the config asks for replicas and nothing would keep them.
void check_replicas(const Config& config, bool has_kept_memory);

// The replicas of a run. Used by one thread on each rank.
class Replicas {
 public:
  // Collective. `run`: the run's folder. Replicas of another run, config, data or number of ranks
  // are not used.
  Replicas(Trainer& trainer, const std::string& run, const KeptMemory& kept);
  ~Replicas();

  // Collective. Stores the current state. Returns how long this took, once the state is copied. A
  // failure is not an exception: ended() reports it.
  Duration store();
  // Failures since the last call, one line each.
  std::vector<std::string> ended();
  // Collective. As in ReplicaStore.
  checkpoint::ReplicasFound find() { return store_->find(); }
  checkpoint::ReplicaRestored restore();
  void forget() { store_->forget(); }

 private:
  Trainer& trainer_;
  std::unique_ptr<checkpoint::ReplicaStore> store_;
};

struct ResumeRequest {
  std::string from;  // as RunOptions::resume
  // The ranks were restarted: state of this run comes before `from`.
  bool restarted = false;
  std::string dir;  // this run's checkpoints
};
// Collective. Continues from the newest of the replicas (null: none) and the checkpoints below
// `dir`, else as resume() does. Rank 0 says why expected replicas cannot be used. Copies that were
// not used are forgotten.
Resumed resume_newest(Trainer& trainer, Replicas* replicas, const ResumeRequest& request);

}  // namespace lockstep::train
