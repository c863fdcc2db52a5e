#include "train/checkpoints.h"

#include <filesystem>

#include "checkpoint/checkpoint.h"
#include "comm/text.h"
#include "core/base/log.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

std::vector<checkpoint::Entry> entries_of(const Trainer& trainer) {
  std::vector<checkpoint::Entry> entries;
  for (const auto& [name, tensor] : trainer.state()) entries.emplace_back(name, tensor);
  return entries;
}

std::string newest_below(const std::string& dir) {
  const checkpoint::LatestGood latest = checkpoint::latest_good(dir);
  for (const std::string& reason : latest.skipped) log::warn("skipped a damaged checkpoint: ", reason);
  return latest.checkpoint ? latest.checkpoint->folder() : std::string();
}

void compare_with_saved(Trainer& trainer, const checkpoint::Checkpoint& saved) {
  const std::string data = trainer.data().identity();
  check(saved.metadata("data") == data, "[resume] ", saved.folder(), " was trained on other data (", saved.metadata("data"), ", now ", data,
        "); give data.path the same file, or start a new run");
  const ConfigDifference difference = first_difference(saved.metadata("settings"), canonical_text(trainer.config(), KeyScope::result));
  if (!difference.key.empty() && trainer.group().rank() == 0)
    log::warn("resuming with ", difference.key, " = ", difference.b, " instead of ", difference.a,
              ": the run will not end with the bits of one that never stopped");
}

}  // namespace

std::string save_checkpoint(Trainer& trainer, const std::string& dir) {
  const Config& config = trainer.config();
  return checkpoint::save({.dir = dir,
                           .step = trainer.steps_done(),
                           .entries = entries_of(trainer),
                           .metadata = {{"config", to_yaml(config)},
                                        {"settings", canonical_text(config, KeyScope::result)},
                                        {"config_digest", config_digest(config)},
                                        {"data", trainer.data().identity()},
                                        {"seed", std::to_string(config.run.seed)},
                                        {"world_size", std::to_string(trainer.group().size())}},
                           .keep = config.checkpoint.keep,
                           .group = &trainer.group()});
}

std::string find_checkpoint(const std::string& path) {
  check(fs::is_directory(path), "no such folder: ", path, "; expected a checkpoint, or the folder of a run");
  if (fs::exists(path + "/manifest.json")) return path;
  for (const std::string& dir : {path + "/checkpoints", path}) {
    const std::string found = newest_below(dir);
    if (!found.empty()) return found;
  }
  throw UsageError(str("no good checkpoint in ", path, "; `lockstep checkpoint ls ", path, "` shows what is there"));
}

Resumed resume(Trainer& trainer, const std::string& from, const std::string& dir) {
  // One rank looks, so that all take the same one; and what fails on one rank must end the wait of the others.
  const std::string folder = comm::agree(&trainer.group(), [&] {
    if (trainer.group().rank() != 0) return std::string();
    return from == "auto" ? newest_below(dir) : find_checkpoint(from);
  })[0];
  if (folder.empty()) return {};

  int64_t step = 0;
  comm::agree(&trainer.group(), [&] {
    const auto saved = checkpoint::Checkpoint::open(folder);
    compare_with_saved(trainer, saved);
    saved.read(entries_of(trainer));
    step = saved.step();
    return std::string();
  });
  trainer.set_steps_done(step);
  return {.folder = folder, .step = step};
}

}  // namespace lockstep::train
