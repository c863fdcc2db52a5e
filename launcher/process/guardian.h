// Guardian: a small process that outlives the agent for a moment. It holds the other end of a pipe;
// when the agent vanishes, however that happens, the pipe ends and the guardian kills every session
// that it was told to watch. Ranks die with the agent in any case (PR_SET_PDEATHSIG); the guardian
// is there for what they started.
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

  // Where a rank itself writes the number of its session, as a pid_t, before it becomes its
  // program: if the agent did that afterwards, it could die in between. Closed by exec.
  int announce_fd() const { return pipe_; }
  // Before the leader is reaped, for its number may be given to another process afterwards.
  void forget(pid_t session);

 private:
  int pipe_ = -1;
  pid_t pid_ = -1;
};

}  // namespace lockstep::launcher
