// What each pair of ranks can do: time of a small message, rate of large ones, and how far their
// clocks are apart. For `lockstep doctor` on several hosts.
#pragma once

#include <string>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::train {

struct PairFigures {
  int a = 0, b = 0;           // a < b
  double latency_us = 0;      // one way, of 8 bytes
  double gb_per_s = 0;        // of messages of 4 MiB, one way
  double clock_ahead_ms = 0;  // of b against a
};

// Collective. Measures one pair after the other, so W ranks take W(W-1)/2 turns of some
// milliseconds. All ranks get the same figures.
std::vector<PairFigures> measure_pairs(comm::ProcessGroup& group);

// What is wrong, and the command that mends it; empty if nothing is. `hosts`: of each rank.
std::vector<std::string> findings(const std::vector<PairFigures>& pairs,
                                  const std::vector<std::string>& hosts);

}  // namespace lockstep::train
