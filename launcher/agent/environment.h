// The environment of a rank. It has torchrun's variables, so that programs written for torchrun run
// unchanged, and our own.
#pragma once

#include <string>
#include <vector>

#include "launcher/base/launch_spec.h"
#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

struct RankPlace {
  int local_rank = 0;
  std::string agent_page;  // path of the AgentPage
  std::string error_file;  // where the rank may write why it fails
  // A file in memory that stays the same in every epoch. Empty: none.
  std::string kept_memory;
  // Width of the terminal that shows the rank's output unchanged. 0: none.
  int terminal_columns = 0;
};

// Returns the whole environment as NAME=value: this process's environment, the spec's additions,
// and the variables that describe the rank. `node` is this agent's entry of job.nodes.
std::vector<std::string> rank_environment(const LaunchSpec& spec, const std::string& run_id,
                                          const JobState& job, const Node& node,
                                          const Endpoint& store, const RankPlace& place);

}  // namespace lockstep::launcher
