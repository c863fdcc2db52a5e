// What `lockstep bench checkpoint` measures. Collective; the figures of rank 0 are the ones to
// show. Times are medians over repetitions, each from the first rank's begin to the last rank's
// end.
#pragma once

#include <cstdint>
#include <string>

#include "comm/process_group.h"

namespace lockstep::train {

struct CheckpointBenchmark {
  int ranks = 0, threads = 0;
  int64_t bytes = 0;    // of the state, over all ranks
  double memcpy_s = 0;  // all ranks copy their part of it once, into memory that was used before
  double stall_s = 0;   // Saver::start(): how long a save in the background holds training up
  double save_s = 0;    // save(): all of it, until everything is on disk
  double save_unsynced_s = 0;  // the same without waiting for its syncs
  double load_s = 0;           // restore_latest() from the page cache: every value verified
  double load_cold_s = 0;      // the same from disk; 0 where the page cache could not be dropped
  // The same bytes, written and synced without checksums or manifest: the disk's own speed.
  double plain_write_s = 0;
  double summed_write_s = 0;  // the same with checksums, in turn with it
  double noise_s = 0;         // how far the medians of two halves of the plain writes are apart
  double checksum_s = 0;      // SHA-256 and XXH3 of a rank's part, with nothing else to do

  // How much of a save is there for its checksums only; below 0 where the disk varied more than
  // that. No better known than noise_share().
  double checksum_share() const { return of_save(summed_write_s - plain_write_s); }
  double noise_share() const { return of_save(noise_s); }

 private:
  double of_save(double seconds) const { return save_s > 0 ? seconds / save_s : 0; }
};

// `dir`: a folder of its own is made in it and removed.
CheckpointBenchmark bench_checkpoint(comm::ProcessGroup& group, const std::string& dir,
                                     int64_t bytes, int repetitions);

}  // namespace lockstep::train
