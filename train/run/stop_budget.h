// StopBudget: predicts whether a run that is asked to stop will have saved before it is killed.
// Schedulers ask, wait for a while (Slurm's KillWait and Kubernetes: 30 s), then kill.
#pragma once

#include <optional>
#include <string>

#include "core/base/clock.h"

namespace lockstep::train {

// Simple arithmetic on what the run measured. Not thread-safe.
class StopBudget {
 public:
  // `budget`: the time for a stop, from the request to the end of the save. Zero: no limit and no
  // warnings.
  explicit StopBudget(Duration budget) : budget_(budget) {}

  // A step took `step`. `looked_again`: the time from the step's begin until the run checked for
  // requests again. It includes an evaluation but not a save, because a fresh save needs no second
  // one. The first step of a run does not count: it includes the warm-up.
  void stepped(Duration step, Duration looked_again);
  // A save is on disk and took this long.
  void saved(Duration took) { save_ = took; }

  // Why a stop may take longer than the budget, and what to do. Empty if it does not, if too little
  // is known, or if it was said before.
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
