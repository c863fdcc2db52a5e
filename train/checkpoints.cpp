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
  for (const auto& [name, values, shard] : trainer.state()) entries.emplace_back(name, values, shard);
  return entries;
}

// The folder of checkpoints that a path means; empty: it is a checkpoint itself.
std::string folder_of_checkpoints(const std::string& path) {
  check(fs::is_directory(path), "no such folder: ", path, "; expected a checkpoint, or the folder of a run");
  if (fs::exists(path + "/manifest.json")) return {};
  return fs::is_directory(path + "/checkpoints") ? path + "/checkpoints" : path;
}

std::string none_in(const std::string& path) {
  return str("no good checkpoint in ", path, "; `lockstep checkpoint ls ", path, "` shows what is there");
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
  const std::string below = folder_of_checkpoints(path);
  if (below.empty()) return path;
  const checkpoint::LatestGood latest = checkpoint::latest_good(below);
  for (const std::string& reason : latest.skipped) log::warn("skipped a damaged checkpoint: ", reason);
  check(latest.checkpoint.has_value(), none_in(path));
  return latest.checkpoint->folder();
}

Resumed resume(Trainer& trainer, const std::string& from, const std::string& dir) {
  const auto entries = entries_of(trainer);
  const auto accept = [&](const checkpoint::Checkpoint& saved) { compare_with_saved(trainer, saved); };
  // One rank looks, so that all take the same one.
  const std::string below = comm::agree(&trainer.group(), [&] {
    if (trainer.group().rank() != 0) return std::string();
    return from == "auto" ? dir : folder_of_checkpoints(from);
  })[0];
  Resumed resumed;
  if (below.empty()) {  // this one, and no other
    comm::agree(&trainer.group(), [&] {
      const auto saved = checkpoint::Checkpoint::open(from);
      accept(saved);
      saved.read(entries);
      resumed = {.folder = from, .step = saved.step()};
      return std::string();
    });
  } else {
    const auto restored = checkpoint::restore_latest(below, entries, &trainer.group(), accept);
    if (trainer.group().rank() == 0)
      for (const std::string& reason : restored.skipped) log::warn("skipped a damaged checkpoint: ", reason);
    check(restored.checkpoint.has_value() || from == "auto", none_in(from));
    if (restored.checkpoint) resumed = {.folder = restored.checkpoint->folder(), .step = restored.checkpoint->step()};
  }
  if (!resumed.folder.empty()) trainer.set_steps_done(resumed.step);
  return resumed;
}

}  // namespace lockstep::train
