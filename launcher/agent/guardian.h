// Guardian: a small process that outlives the agent for a moment. It holds the other end of a pipe; when the agent vanishes, however
// that happens, the pipe ends and the guardian kills every session that it was told to watch. Ranks die with the agent in any case
// (PR_SET_PDEATHSIG); the guardian is there for what they started.
#pragma once

#include <sys/types.h>

namespace lockstep::launcher {

// Made before the agent opens anything that others wait to be closed. Used by one thread.
class Guardian {
 public:
  Guardian();
  // Kills what is still watched.
  ~Guardian();
  Guardian(const Guardian&) = delete;
  Guardian& operator=(const Guardian&) = delete;

  void watch(pid_t session) { tell(session); }
  // Before the leader is reaped, for its number may be given to another process afterwards.
  void forget(pid_t session) { tell(-session); }

 private:
  void tell(pid_t message);

  int pipe_ = -1;
  pid_t pid_ = -1;
};

}  // namespace lockstep::launcher
