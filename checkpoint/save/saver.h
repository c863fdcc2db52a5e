// Saves in the background: the state is copied, and threads write the copy while work continues.
//
//   Saver saver({.dir = run + "/checkpoints", .keep = 3, .group = &group});
//   saver.start(100, entries, metadata);              // returns once the copy is made
//   …
//   if (auto ended = saver.poll()) report(*ended);    // each step
//   SaveOutcome last = saver.wait();
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/base/clock.h"

namespace lockstep::checkpoint {

struct SaverOptions {
  std::string dir = {};  // the folder of checkpoints
  int64_t keep = 0;      // as in SaveRequest
  comm::ProcessGroup* group = nullptr;
  FileSystem* files = nullptr;
  std::string claim = {};                    // as in SaveRequest
  int64_t two_files_above = kTwoFilesAbove;  // as in SaveRequest
};

// The outcome of a save, equal on all ranks.
struct SaveOutcome {
  int64_t step = 0;
  std::string folder;  // empty if the save failed; `error` then says why and on which rank
  std::string error;
  Duration stall{};     // how long start() blocked its caller
  Duration duration{};  // from start() to the commit
};

// One thread on each rank uses it. Holds a copy of what its rank writes: its own shards, or one
// W-th of the state with data parallelism. The first start() allocates the copy, and later ones use
// it again.
class Saver {
 public:
  // Collective. Splits off a group of its own, to keep background exchanges apart from the caller's
  // collectives. Removes what earlier savers left unfinished in `dir`. If one of them still lives,
  // it can no longer commit.
  explicit Saver(const SaverOptions& options);
  ~Saver();  // waits for the save

  // Collective. Plans and allocates before the first start(), so that the first one takes no longer
  // than later ones.
  void prepare(const std::vector<Entry>& entries);

  // Collective, with the same names and shards each time. If they changed on any rank, the save
  // fails on all. Waits for the previous save, whose outcome stays for poll(). Then copies this
  // rank's part of the state and returns; the entries may change at once. Parts on a device are
  // copied beside its other work, through pinned memory: what is queued there later, on the queue
  // that is current now, starts after the copy.
  void start(int64_t step, const std::vector<Entry>& entries,
             std::map<std::string, std::string> metadata);

  bool busy() const;
  // Returns the outcome of a finished save that was not returned yet. Does not wait.
  std::optional<SaveOutcome> poll();
  // Waits for the current save, if any. Then like poll().
  std::optional<SaveOutcome> wait();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::checkpoint
