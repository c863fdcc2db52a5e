// Saving while the work goes on: the state is copied, and threads in the background write the copy.
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
  int64_t two_files_above = kTwoFilesAbove;  // as in SaveRequest
};

// How a save went, the same on all ranks.
struct SaveOutcome {
  int64_t step = 0;
  std::string folder;  // empty: it failed, and `error` says why and on which rank
  std::string error;
  Duration stall{};     // how long start() held its caller up
  Duration duration{};  // from start() to the commit
};

// Used by one thread on each rank. Holds a copy of what its rank writes, made at the first start()
// and used again for the later ones: in data parallelism one W-th of the state, with shards the
// rank's own.
class Saver {
 public:
  // Collective. Splits a group of its own off, so that what the background exchanges cannot mix
  // with the caller's collectives, and removes what earlier savers left half done in `dir`: one
  // that still lives then cannot commit any more.
  explicit Saver(const SaverOptions& options);
  ~Saver();  // waits

  // Collective. What may be done before the first start(), so that it stalls no longer than later
  // ones: the plan, and memory.
  void prepare(const std::vector<Entry>& entries);

  // Collective, with the same names and shards each time; where they changed on any rank, the save
  // fails on all. Waits for the save before, if it is still being written; its outcome stays for
  // poll(). Then copies this rank's part of the state and returns; the entries may change at once.
  // Parts on a device are copied beside its other work, through pinned memory: what is queued there
  // later, on the queue that is current now, starts after the copy.
  void start(int64_t step, const std::vector<Entry>& entries,
             std::map<std::string, std::string> metadata);

  bool busy() const;
  // The outcome of a save that has ended and was not told yet. Does not wait.
  std::optional<SaveOutcome> poll();
  // Waits for the one that is being written, if any. Then as poll().
  std::optional<SaveOutcome> wait();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::checkpoint
