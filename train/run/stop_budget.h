// StopBudget: whether a run that is asked to stop will have saved before it is killed. Schedulers
// ask, wait for a while (Slurm's KillWait and Kubernetes: 30 s), then kill.
#pragma once

#include <optional>
#include <string>

#include "core/base/clock.h"

namespace lockstep::train {

// Plain arithmetic on what the run measured. Not thread-safe.
class StopBudget {
 public:
  // `budget`: what a stop may take, from the request to the end of the save. Zero: nobody hurries,
  // and nothing is said.
  explicit StopBudget(Duration budget) : budget_(budget) {}

  // A step took `step`. `looked_again`: from its begin until the run looked for requests again,
  // with an evaluation but without a save: what was just saved needs no second save. The first step
  // of a run does not count, for it pays for warming up.
  void stepped(Duration step, Duration looked_again);
  // A save is on disk, and took this long.
  void saved(Duration took) { save_ = took; }

  // Why a stop may take longer than the budget, and what to do. Empty where it does not, where too
  // little is known, or where it was said before.
  std::string warning();

 private:
  const Duration budget_;
  bool warm_ = false, said_ = false;
  Duration longest_step_{}, longest_look_{};
  std::optional<Duration> save_;  // the last one
};

// "0.31 s", "31.2 s", "250 s".
std::string stop_time_text(Duration time);

}  // namespace lockstep::train
