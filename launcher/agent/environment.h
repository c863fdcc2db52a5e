// The environment that a rank gets: torchrun's names, so that programs written for it run as they
// are, and our own.
#pragma once

#include <string>
#include <vector>

#include "launcher/base/launch_spec.h"
#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

struct RankPlace {
  int local_rank = 0;
  std::string error_file;  // where the rank may say why it fails
  std::string
      kept_memory;  // a file in memory that is the same in every epoch; empty: there is none
  int terminal_columns = 0;  // of the terminal that shows its output as it is; 0: there is none
};

// NAME=value, all of it: this process's environment, the spec's additions, and what describes the
// rank. `node` is this agent's entry of job.nodes.
std::vector<std::string> rank_environment(const LaunchSpec& spec, const std::string& run_id,
                                          const JobState& job, const Node& node,
                                          const Endpoint& store, const RankPlace& place);

}  // namespace lockstep::launcher
