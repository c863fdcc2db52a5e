// Checks that all ranks read the same config.
#pragma once

#include "comm/process_group.h"
#include "train/config/config.h"

namespace lockstep::train {

// Throws UsageError on every rank if configs differ. It names the first differing key, both values
// and both ranks. Settings that may differ (how to reach a rank, where it writes) do not count.
void check_same_config(const Config& config, comm::ProcessGroup& group);

}  // namespace lockstep::train
