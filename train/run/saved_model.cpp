#include "train/run/saved_model.h"

#include <algorithm>

#include "core/base/log.h"
#include "train/models/factory.h"
#include "train/parallel/device.h"
#include "train/run/checkpoints.h"

namespace lockstep::train {
namespace {

bool names_device(std::span<const std::string> overrides) {
  return std::any_of(overrides.begin(), overrides.end(),
                     [](const std::string& set) { return set.starts_with("device="); });
}

}  // namespace

Config saved_config(const checkpoint::Checkpoint& saved, std::span<const std::string> overrides) {
  check(saved.metadata().contains("config"), "'", saved.folder(),
        "' was not saved by `lockstep train` or `lockstep checkpoint import`: its metadata has no "
        "'config', which describes the model; "
        "`lockstep checkpoint ls`, `verify` and `diff` do not need it");
  return parse_config(saved.metadata("config"), saved.folder() + " (saved config)", overrides);
}

SavedModel load_model(const std::string& path, std::span<const std::string> overrides) {
  const auto saved = checkpoint::Checkpoint::open(find_checkpoint(path));
  SavedModel result{.folder = saved.folder(),
                    .step = saved.step(),
                    .config = saved_config(saved, overrides),
                    .module = {},
                    .device = {}};
  result.device = device_of_saved(result.config, names_device(overrides));
  if (result.device == kCpu && result.config.train.precision == Precision::fp16) {
    log::warn("this model was trained in fp16, in which a CPU does not compute: it runs in fp32");
    result.config.train.precision = Precision::fp32;
  }
  const DeviceScope scope(result.device);
  result.module = build_model(result.config).module;
  std::vector<checkpoint::Entry> entries;
  for (const Parameter& p : result.module->parameters()) entries.emplace_back(p.name(), p.data());
  for (const auto& [name, values] : result.module->buffers()) entries.emplace_back(name, values);
  saved.read(entries);
  result.module->train(false);
  return result;
}

}  // namespace lockstep::train
