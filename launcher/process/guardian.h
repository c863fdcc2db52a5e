// Guardian: a small process that outlives the agent for a moment. It holds the other end of a pipe.
// When the agent vanishes for any reason, the pipe ends, and the guardian kills every session that
// it watches. Ranks die with the agent anyway (PR_SET_PDEATHSIG); the guardian ends what they
// started. It does the same when the agent's lease passes: a frozen agent cannot.
#pragma once

#include <sys/types.h>

#include "launcher/base/agent_page.h"

namespace lockstep::launcher {

// Make it before the agent opens any descriptor whose closing others wait for. Used by one thread.
class Guardian {
 public:
  // `page` outlives the guardian's process.
  explicit Guardian(AgentPage& page);
  // Kills the sessions that are still watched.
  ~Guardian();
  Guardian(const Guardian&) = delete;
  Guardian& operator=(const Guardian&) = delete;

  // The rank itself writes the number of its session here, as a pid_t, before it becomes its
  // program. If the agent wrote it afterwards, the agent could die in between. Closed by exec.
  int announce_fd() const { return pipe_; }
  // Stops watching. Call it before the session's leader is reaped: its number may then be reused.
  void forget(pid_t session);

 private:
  int pipe_ = -1;
  pid_t pid_ = -1;
};

}  // namespace lockstep::launcher
