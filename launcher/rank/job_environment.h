// Reads what launchers put into environment variables. docs/launcher.md has the table of launchers.
#pragma once

#include <optional>
#include <string>

#include "launcher/rank/rank_env.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// Empty if the variable is not set.
std::string env(const char* name);
// Returns `missing` if the variable is not set or empty. Throws UsageError if it is not a number.
int number_from(const char* name, int missing = 0);

// This process's rank according to RANK and WORLD_SIZE.
std::optional<RankEnv> rank_from_variables();
// This process's rank according to the launcher that started it. Nothing if no launcher is seen.
// Throws UsageError that names the launcher if that launcher does not give the number of ranks.
std::optional<RankEnv> rank_from_launcher();

// Where rank 0 serves the store if our launcher did not start the job. Nothing if no variable names
// a place. Throws UsageError for a port out of range, and under a torchrun whose own store is
// there.
std::optional<Endpoint> served_endpoint();

}  // namespace lockstep::launcher
