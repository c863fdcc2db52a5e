// A model from a checkpoint, ready to compute with.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/nn/module.h"
#include "train/config/config.h"

namespace lockstep::train {

struct SavedModel {
  std::string folder;  // of the checkpoint
  int64_t step = 0;
  Config config;
  std::shared_ptr<nn::Module> module;  // not training
  Device device;                       // where its parameters are
};

// `path`: a checkpoint, or a run's folder (its newest good one). `overrides` are applied to the
// saved config ("data.path=…"). The model is on the device that they name, or else where it was
// trained if that is possible (device_of_saved()). Throws UsageError if there is none or the config
// does not fit.
SavedModel load_model(const std::string& path, std::span<const std::string> overrides = {});

// The config that a checkpoint was saved with.
Config saved_config(const checkpoint::Checkpoint& saved,
                    std::span<const std::string> overrides = {});

}  // namespace lockstep::train
