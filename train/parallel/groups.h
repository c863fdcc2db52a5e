// Makes the process group of a run: which backend, over which store, for this process's rank.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "comm/process_group.h"
#include "launcher/rank/rank_env.h"
#include "train/config/config.h"

namespace lockstep::train {

// `device`: where this rank computes (take_device()). Throws UsageError if the config's backend
// does not fit how this process was started. The message says what would fit.
// `over` may put another store in the place of the one through which the ranks meet.
using OverStore = std::function<std::shared_ptr<comm::Store>(std::shared_ptr<comm::Store>)>;
std::shared_ptr<comm::ProcessGroup> make_group(const ParallelConfig& config,
                                               const launcher::RankEnv& rank, Device device = kCpu,
                                               const OverStore& over = {});

// The defaults, but with the backend of that name. Throws UsageError for another word than those of
// parallel.backend.
ParallelConfig with_backend(std::string_view backend);

}  // namespace lockstep::train
