// Makes sure that all ranks read the same config.
#pragma once

#include "comm/process_group.h"
#include "train/config/config.h"

namespace lockstep::train {

// Throws UsageError on every rank, naming the first key that differs, both values and both ranks.
// Settings that may differ (how a rank is reached, where it writes) do not count.
void check_same_config(const Config& config, comm::ProcessGroup& group);

}  // namespace lockstep::train
