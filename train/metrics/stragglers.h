// Stragglers: which rank holds up the others, from the times that ranks measure of their steps
// anyway.
//
// All ranks finish a step together, so the time of a step does not tell them apart. A slow rank
// computes or reads for longer than the others, and they wait for it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep::train {

// Where a rank's time went, in ms of a step.
struct RankTimes {
  double data_ms = 0;     // reading batches
  double compute_ms = 0;  // the rest
  double wait_ms = 0;     // for other ranks, in collectives
  double own_ms() const { return data_ms + compute_ms; }
  double step_ms() const { return own_ms() + wait_ms; }
};

// This rank's last steps.
class StepTimes {
 public:
  // Ranks tell each other their times every so many steps.
  static constexpr int64_t kWindow = 10;

  void add(const RankTimes& step);
  // The mean since the last clear(), without the longest step: the first step of a run, or one that
  // the machine interrupted, is no sign of a slow rank. Zeros if there are fewer than two steps.
  RankTimes mean() const;
  void clear() { steps_.clear(); }

 private:
  std::vector<RankTimes> steps_;
};

// Judges the times of all ranks, window by window. Equal times give equal texts on all ranks.
class Stragglers {
 public:
  // `hosts`: of each rank, to name them. Empty, or all equal: not worth naming.
  explicit Stragglers(std::vector<std::string> hosts = {});

  // What is new at the end of a window: a rank is slow, another one is, or none is any more. Empty
  // if nothing is new. `times`: of each rank. `step`: the last step of the window.
  std::string look(int64_t step, std::span<const RankTimes> times);

 private:
  std::string rank_text(int rank) const;
  std::string slow_text(int64_t step, std::span<const RankTimes> times, int rank) const;

  std::vector<std::string> hosts_;
  int suspect_ = -1;  // slow in the last window, but not clearly enough to say so
  int told_ = -1;     // the rank that was last said to be slow; -1: none
  bool told_data_ = false;
  int quiet_ = 0;         // windows since told_ was last slow
  int quiet_needed_ = 2;  // grows, so that a rank which comes and goes is not told every time
};

}  // namespace lockstep::train
