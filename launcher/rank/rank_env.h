// What a rank learns from its environment: who it is, where the store is, where to leave the reason
// of a failure.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "comm/store.h"

namespace lockstep::launcher {

struct RankEnv {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  // among the ranks of this host
  int local_size = 1;
  // Where it comes from: "flags", "RANK/WORLD_SIZE", the name of a launcher ("Open MPI", "Slurm",
  // "Flux", …) or "single".
  std::string source = "single";
  // A name that all ranks of this job share and no other job has: "Slurm step 12.0". Empty where
  // the source has none.
  std::string job = {};
};

// Looks at, in this order: the two flags; RANK and WORLD_SIZE (lockstep run, torchrun); the
// variables of Open MPI, jsrun, Flux, PALS, MVAPICH2, and MPICH; SLURM_* (only inside a step of
// more than one task, so that a plain program in an allocation, or in the shell that salloc gives,
// stays a single process); else a single process. Throws UsageError that names the variable where a
// value is no number or does not fit, or where a launcher is seen that does not say how many ranks
// there are.
RankEnv detect_rank(std::optional<int> rank_flag = std::nullopt,
                    std::optional<int> size_flag = std::nullopt);

// A name that all processes which one launcher started share, so that agents of several nodes find
// each other; empty where there is none.
std::string launcher_job();

// What our agent tells a rank beside that.
struct AgentEnv {
  int node = 0;             // the agent's place among those of the job
  int restarts = 0;         // how often all ranks were started again before this time
  std::string kept_memory;  // a file in memory that the agent keeps for this local rank as long as
                            // it lives; empty: there is none
  int64_t epoch = 0;        // of the job's membership: grows with each start of its ranks
};
// Where there is no such agent, all of it is empty.
AgentEnv agent_env();
bool has_agent();

// Whether connect_store() has an address to go to. Throws UsageError where MASTER_ADDR and
// MASTER_PORT cannot be one.
bool has_store();

// The store that this rank's environment names; keys of one epoch are apart from those of another.
//   LOCKSTEP_STORE=host:port   the launcher serves it
//   MASTER_ADDR, MASTER_PORT   rank 0 serves it there (other launchers, ranks started by hand)
//   SLURM_*                    rank 0 serves it, on the first host of the step
// A store that rank 0 serves takes in each rank of its own job once. A rank of another job is
// refused by name: LOCKSTEP_RUN_ID, or RankEnv::job, tells jobs apart. Throws UsageError if there
// is none of them or the rank is refused, EnvironmentError if nobody answers within `limit`.
std::shared_ptr<comm::Store> connect_store(
    std::chrono::nanoseconds limit = std::chrono::seconds(30));

// The part of a store for keys that outlive an epoch.
inline constexpr const char* kJobStore = "job";

// The same store for keys that outlive an epoch: what ranks leave for those that are started after
// them. Only under our agent, which sets LOCKSTEP_STORE: UsageError without it.
std::shared_ptr<comm::Store> connect_job_store(
    std::chrono::nanoseconds limit = std::chrono::seconds(30));

// Leaves the reason of this rank's coming end where its agent reads it (LOCKSTEP_ERROR_FILE). The
// first failure counts. It replaces an earlier report_saved(). Does nothing without an agent, and
// never throws. `caused_by_peer`: this rank only suffers from another one's failure, so it is not
// to blame.
void report_failure(std::string_view message, bool caused_by_peer = false) noexcept;

// Says in the same place that this rank has saved and is about to stop: its exit code 3 then counts
// as that, and not as a failure. It replaces a failure that an earlier program of this rank left
// there. Does nothing without an agent, and never throws.
void report_saved() noexcept;

}  // namespace lockstep::launcher
