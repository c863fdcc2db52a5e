// The process group of a run: which backend, over which store, for the rank that this process is.
#pragma once

#include <memory>

#include "comm/process_group.h"
#include "launcher/rank/rank_env.h"
#include "train/config/config.h"

namespace lockstep::train {

// Throws UsageError where the config's backend does not fit how this process was started, and says
// what would.
std::shared_ptr<comm::ProcessGroup> make_group(const ParallelConfig& config,
                                               const launcher::RankEnv& rank);

}  // namespace lockstep::train
