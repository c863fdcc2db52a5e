// Which device a rank computes on.
#pragma once

#include <string>

#include "core/device/device.h"
#include "launcher/rank/rank_env.h"
#include "train/config/config.h"

namespace lockstep::train {

// What `device` of a config means on this machine: cpu or cuda. `auto` is cuda if a CUDA device can
// be used that is not simulated. Throws UsageError for cuda if there is none; it says why, and what
// to do.
DeviceKind resolved(DeviceKind device);

// Resolves config.device and binds this process to its device: the one of its local rank's number,
// modulo their count. Local ranks beyond it share devices. Call it before anything else of a
// device. Throws UsageError as resolved() does, and for other keys that do not fit the device.
Device take_device(Config& config, const launcher::RankEnv& rank);

// The device on which a model of a run with this config is used again: `asked`, or where it was
// trained, or the CPU with a warning if that device is not here. Binds the process to it.
Device device_of_saved(const Config& config, bool asked);

}  // namespace lockstep::train
