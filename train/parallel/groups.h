// The process group of a run: which backend, over which store, for the rank that this process is.
#pragma once

#include <memory>
#include <string_view>

#include "comm/process_group.h"
#include "launcher/rank/rank_env.h"
#include "train/config/config.h"

namespace lockstep::train {

// Throws UsageError where the config's backend does not fit how this process was started, and says
// what would.
std::shared_ptr<comm::ProcessGroup> make_group(const ParallelConfig& config,
                                               const launcher::RankEnv& rank);

// The defaults, but with the backend of that name. Throws UsageError for another word than those of
// parallel.backend.
ParallelConfig with_backend(std::string_view backend);

}  // namespace lockstep::train
