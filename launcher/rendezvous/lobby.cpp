#include "launcher/rendezvous/lobby.h"

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

constexpr const char* kAdvice = ": give each job a MASTER_PORT and a LOCKSTEP_RUN_ID of its own";

std::string job_text(const std::string& job) { return job.empty() ? "a job without a name" : job; }

}  // namespace

void LobbyBook::enter(const std::string& job, int rank, int size, const std::string& process,
                      const std::string& id) {
  const std::string who = str("rank ", rank, " of ", size, " (", process, ")");
  check(job == lobby_.job, "[store] ", who, " is of ", job_text(job),
        ", but the store at this address is of ", job_text(lobby_.job), kAdvice);
  check(size == lobby_.size && rank >= 0 && rank < size, "[store] ", who, " came to the store of ",
        job_text(lobby_.job), ", which has ", lobby_.size, " rank(s)", kAdvice);
  const auto [there, added] = ranks_.try_emplace(rank, Process{process, id});
  if (added || there->second.id == id) return;
  const std::string twice =
      str("[store] two processes are rank ", rank, " of ", job_text(lobby_.job), ": ",
          there->second.text, " and ", process, ", so two jobs use one address", kAdvice);
  if (static_cast<int>(ranks_.size()) < lobby_.size) conflict_ = twice;
  throw UsageError(twice);
}

void LobbyBook::leave(int rank, const std::string& id) {
  const auto found = ranks_.find(rank);
  if (found != ranks_.end() && found->second.id == id) left_.insert(rank);
}

}  // namespace lockstep::launcher
