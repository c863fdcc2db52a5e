// What launchers tell a process through environment variables. docs/launcher.md has the table of
// launchers.
#pragma once

#include <optional>
#include <string>

#include "launcher/rank/rank_env.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// Empty where the variable is not set.
std::string env(const char* name);
// `missing` where the variable is not set or empty. Throws UsageError for what is no number.
int number_from(const char* name, int missing = 0);

// Who this process is according to RANK and WORLD_SIZE.
std::optional<RankEnv> rank_from_variables();
// Who this process is according to the launcher that started it. Nothing where none is seen.
// Throws UsageError that names the launcher where one is seen that does not say how many ranks
// there are.
std::optional<RankEnv> rank_from_launcher();

// Where rank 0 serves the store when there is no launcher of ours. Nothing: no variable says it.
// Throws UsageError for a port out of range, and under a torchrun whose own store is there.
std::optional<Endpoint> served_endpoint();

}  // namespace lockstep::launcher
