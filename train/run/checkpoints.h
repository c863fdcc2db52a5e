// A trainer's state in checkpoints: what is saved, and how a run resumes from it.
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
  // Collective. Saves into `dir`. Follows checkpoint.keep and checkpoint.async of the config.
  // `now`: the clock for the times of saves that training waits for.
  Checkpoints(
      Trainer& trainer, std::string dir, Now now = [] { return Clock::now(); });
  ~Checkpoints();

  // Collective. Saves the current state: in the background if the config says so, else before it
  // returns. A failure is not an exception but an outcome. Training continues, and the older
  // checkpoints stay.
  void save();
  // Saves that have ended since the last call, oldest first. Call it each step.
  std::vector<checkpoint::SaveOutcome> ended();
  // Whether the background still writes.
  bool busy() const { return saver_ && saver_->busy(); }
  // Collective. Waits for the background.
  void wait();
  // Collective. A save that must not fail. Waits for the one before it, then saves and throws as
  // checkpoint::save() does. `keep_all`: removes no older ones, whatever checkpoint.keep says.
  std::string save_last(bool keep_all = false);
  // Collective. On rank 0: why some ranks may not write files as large as a checkpoint's. Empty if
  // all may.
  std::string lack_of_file_size();
  // On rank 0: what is lacking for the next `saves` saves.
  checkpoint::Lack lack_of_room(int64_t saves) const;

 private:
  std::string claim() const;
  std::map<std::string, std::string> metadata();                                 // collective
  std::string write(std::map<std::string, std::string> metadata, int64_t keep);  // collective

  Trainer& trainer_;
  std::string dir_;
  Now now_;
  std::string claim_;  // of dir_; empty without an agent
  checkpoint::SaveSize size_;
  std::unique_ptr<checkpoint::Saver> saver_;  // null: not in the background
  std::vector<checkpoint::SaveOutcome> ended_;
};

// The entries of a trainer in a checkpoint, by name.
std::vector<checkpoint::Entry> entries_of(const Trainer& trainer);

struct Resumed {
  // The checkpoint that was read or, if from memory, the newest one. Empty: none.
  std::string folder = {};
  int64_t step = 0;          // the last step that is done
  bool from_memory = false;  // from replicas
  int64_t folder_step = -1;  // step of `folder`; -1: none

  // If from memory: ranks whose part came from another rank.
  std::vector<int> from_others = {};

  bool anew() const { return folder.empty() && !from_memory; }
};
// Collective. `from`: "auto" takes the newest good checkpoint below `dir` (none: starts from
// nothing). Anything else is the folder of a checkpoint or a run. Warns of settings that differ
// from the saved run's and change the bits. Throws UsageError if the model does not fit or the data
// differ.
Resumed resume(Trainer& trainer, const std::string& from, const std::string& dir);

// Checks `from` before any rank starts. Throws UsageError if it is neither "auto" nor a folder.
void check_resume(const std::string& from);

// The checkpoint that a path means: a checkpoint itself, or the newest good one of a run folder or
// checkpoints folder. Throws UsageError if there is none.
std::string find_checkpoint(const std::string& path);

}  // namespace lockstep::train
