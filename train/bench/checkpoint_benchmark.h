// What `lockstep bench checkpoint` measures. Collective. Show the figures of rank 0. Times are
// medians over repetitions, each from the first rank's begin to the last rank's end.
#pragma once

#include <cstdint>
#include <string>

#include "comm/process_group.h"

namespace lockstep::train {

struct CheckpointBenchmark {
  int ranks = 0, threads = 0;
  int64_t bytes = 0;  // of the state, over all ranks
  // All ranks copy their part of the state once, into memory that was used before.
  double memcpy_s = 0;
  // Saver::start(): how long a save in the background stops training.
  double stall_s = 0;
  // save(): the whole save, until everything is on disk.
  double save_s = 0;
  double save_unsynced_s = 0;  // the same without waiting for its syncs
  double load_s = 0;           // restore_latest() from the page cache, which verifies every value
  double load_cold_s = 0;      // the same from disk; 0 if the page cache could not be dropped
  // The same bytes, written and synced without checksums or manifest: the speed of the disk.
  double plain_write_s = 0;
  // The plain write with checksums. The two alternate.
  double summed_write_s = 0;
  // Difference between the medians of the two halves of the plain writes.
  double noise_s = 0;
  // SHA-256 and XXH3 of a rank's part, with nothing else running.
  double checksum_s = 0;

  // The share of a save that its checksums cost. Below 0 if the disk varied more than that. No more
  // precise than noise_share().
  double checksum_share() const { return of_save(summed_write_s - plain_write_s); }
  double noise_share() const { return of_save(noise_s); }

 private:
  double of_save(double seconds) const { return save_s > 0 ? seconds / save_s : 0; }
};

// Makes its own folder in `dir` and removes it.
CheckpointBenchmark bench_checkpoint(comm::ProcessGroup& group, const std::string& dir,
                                     int64_t bytes, int repetitions);

}  // namespace lockstep::train
