// A trainer's state in checkpoints: what is saved, and how a run continues from it.
#pragma once

#include <string>

#include "train/trainer.h"

namespace lockstep::train {

// Collective. Saves into `dir` and returns the new checkpoint's folder. Throws as checkpoint::save() does.
std::string save_checkpoint(Trainer& trainer, const std::string& dir);

struct Resumed {
  std::string folder;  // empty: nothing to resume from
  int64_t step = 0;
};
// Collective. `from`: "auto" takes the newest good checkpoint below `dir` (none: starts anew), anything else is the folder of
// a checkpoint, or of a run. Warns of settings that differ from the saved run's in ways that change the bits; throws
// UsageError where the model does not fit or the data is another.
Resumed resume(Trainer& trainer, const std::string& from, const std::string& dir);

// The checkpoint that a path means: a checkpoint itself, or the newest good one of a run folder or checkpoints folder.
// Throws UsageError where there is none.
std::string find_checkpoint(const std::string& path);

}  // namespace lockstep::train
