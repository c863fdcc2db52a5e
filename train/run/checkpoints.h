// A trainer's state in checkpoints: what is saved, and how a run continues from it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/save/room.h"
#include "checkpoint/save/saver.h"
#include "train/run/trainer.h"

namespace lockstep::train {

// The saves of a run. Used by one thread on each rank.
class Checkpoints {
 public:
  using Now = std::function<Clock::time_point()>;
  // Collective. Into `dir`; checkpoint.keep and checkpoint.async are the config's. `now`: what
  // saves that training waits for are timed by.
  Checkpoints(
      Trainer& trainer, std::string dir, Now now = [] { return Clock::now(); });
  ~Checkpoints();

  // Collective. Saves the state as it is now: in the background where the config says so, else
  // before it returns. A failure is no exception but an outcome: training goes on, and the older
  // checkpoints stand.
  void save();
  // Saves that have ended since the last call, oldest first; to be asked each step.
  std::vector<checkpoint::SaveOutcome> ended();
  // Whether the background still writes.
  bool busy() const { return saver_ && saver_->busy(); }
  // Collective. Waits for what the background writes.
  void wait();
  // Collective. A save that must not fail: waits for the one before it, then saves and throws as
  // checkpoint::save() does. `keep_all`: removes no older ones, whatever checkpoint.keep says.
  std::string save_last(bool keep_all = false);
  // Collective. On rank 0: why ranks may not write files as large as a checkpoint's; empty where
  // all may.
  std::string lack_of_file_size();
  // Rank 0's. What is lacking for the next so many saves.
  checkpoint::Lack lack_of_room(int64_t saves) const;

 private:
  std::map<std::string, std::string> metadata();                                 // collective
  std::string write(std::map<std::string, std::string> metadata, int64_t keep);  // collective

  Trainer& trainer_;
  std::string dir_;
  Now now_;
  checkpoint::SaveSize size_;
  std::unique_ptr<checkpoint::Saver> saver_;  // null: not in the background
  std::vector<checkpoint::SaveOutcome> ended_;
};

// What a checkpoint holds of a trainer, by name.
std::vector<checkpoint::Entry> entries_of(const Trainer& trainer);

struct Resumed {
  // Of the checkpoint that was read, or, from memory, the newest one; empty: there is none.
  std::string folder = {};
  int64_t step = 0;          // after which the run goes on
  bool from_memory = false;  // from replicas
  int64_t folder_step = -1;  // of `folder`; -1: there is none

  std::vector<int> from_others = {};  // from memory: ranks whose part came from another rank

  bool anew() const { return folder.empty() && !from_memory; }
};
// Collective. `from`: "auto" takes the newest good checkpoint below `dir` (none: starts anew),
// anything else is the folder of a checkpoint, or of a run. Warns of settings that differ from the
// saved run's in ways that change the bits; throws UsageError where the model does not fit or the
// data is another.
Resumed resume(Trainer& trainer, const std::string& from, const std::string& dir);

// What can be said of `from` before any rank starts: UsageError where it is neither "auto" nor a
// folder.
void check_resume(const std::string& from);

// The checkpoint that a path means: a checkpoint itself, or the newest good one of a run folder or
// checkpoints folder. Throws UsageError where there is none.
std::string find_checkpoint(const std::string& path);

}  // namespace lockstep::train
