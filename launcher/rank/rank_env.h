// What a rank learns from its environment: its rank, where the store is, and where to write the
// reason of a failure.
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
  // The source of these values: "flags", "RANK/WORLD_SIZE", the name of a launcher ("Open MPI",
  // "Slurm", "Flux", …) or "single".
  std::string source = "single";
  // A name that all ranks of this job share and no other job has: "Slurm step 12.0". Empty if the
  // source has none.
  std::string job = {};
};

// Looks at these sources, in this order:
// - the two flags
// - RANK and WORLD_SIZE (lockstep run, torchrun)
// - the variables of Open MPI, jsrun, Flux, PALS, MVAPICH2 and MPICH
// - SLURM_*, but only inside a step of more than one task: a plain program in an allocation, or in
//   the shell that salloc gives, stays a single process
// - otherwise a single process
// Throws UsageError that names the variable if a value is not a number or does not fit, or if a
// launcher does not give the number of ranks.
RankEnv detect_rank(std::optional<int> rank_flag = std::nullopt,
                    std::optional<int> size_flag = std::nullopt);

// A name that all processes of one launcher share, so that agents of several nodes find each other.
// Empty if there is none.
std::string launcher_job();

// What our agent tells a rank in addition.
struct AgentEnv {
  int node = 0;  // place of the agent among those of the job
  // How often all ranks were restarted before this start.
  int restarts = 0;
  // A file in memory that the agent keeps for this local rank while the agent lives. Empty: none.
  std::string kept_memory;
  // Epoch of the job's membership. It grows with each start of the ranks.
  int64_t epoch = 0;
};
// Without our agent, all fields keep their defaults.
AgentEnv agent_env();
bool has_agent();
// LOCKSTEP_RUN_ID: the job's name or a random one. Empty without our agent.
std::string run_id();

// Whether connect_store() has an address. Throws UsageError if MASTER_ADDR and MASTER_PORT are not
// a valid one.
bool has_store();

// Connects to the store that this rank's environment names. Each epoch has its own keys.
//   LOCKSTEP_STORE=host:port   the launcher serves it
//   MASTER_ADDR, MASTER_PORT   rank 0 serves it there (other launchers, ranks started by hand)
//   SLURM_*                    rank 0 serves it, on the first host of the step
// A store that rank 0 serves admits each rank of its own job once. It refuses a rank of another job
// by name: LOCKSTEP_RUN_ID, or RankEnv::job, tells jobs apart. Throws UsageError if no variable
// names a store or the rank is refused, and EnvironmentError if nobody answers within `limit`.
// The launcher's store refuses every call of a rank whose epoch is over.
std::shared_ptr<comm::Store> connect_store(
    std::chrono::nanoseconds limit = std::chrono::seconds(30));

// The prefix of keys that outlive an epoch.
inline constexpr const char* kJobStore = "job";
// The key there of a random name of this start of the job. The run id may be that of an earlier
// one.
inline constexpr const char* kStartKey = "start";

// The same store, for keys that outlive an epoch: ranks leave values there for the ranks of later
// starts. Needs our agent, which sets LOCKSTEP_STORE. Throws UsageError without it.
std::shared_ptr<comm::Store> connect_job_store(
    std::chrono::nanoseconds limit = std::chrono::seconds(30));

// Writes why this rank is about to end where its agent reads it (LOCKSTEP_ERROR_FILE). The first
// failure counts. It replaces an earlier report_saved(). Does nothing without an agent, and never
// throws. `caused_by_peer`: another rank's failure caused this one, so this rank is not to blame.
void report_failure(std::string_view message, bool caused_by_peer = false) noexcept;

// Writes to the same place that this rank has saved and is about to stop. Its exit code 3 then
// counts as a stop and not as a failure. Replaces a failure that an earlier program of this rank
// left there. Does nothing without an agent, and never throws.
void report_saved() noexcept;

}  // namespace lockstep::launcher
