// Checks ahead whether future saves have room: what they need, and what the disk and the system's
// limits allow.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace lockstep::checkpoint {

struct SaveSize {
  int64_t bytes = 0;                  // on disk: all files of all ranks
  std::vector<int64_t> largest = {};  // by rank: the largest file
};
// Collective over the group (null: a single rank). Returns what a save of these entries needs.
SaveSize size_of_save(const std::vector<Entry>& entries, comm::ProcessGroup* group);

// The future saves of a run.
struct SavesToCome {
  int64_t bytes = 0;  // of each save
  int64_t saves = 1;  // number of saves; at least 1
  int64_t keep = 0;   // as in SaveRequest: a save is written before older ones are removed
};
struct Room {
  int64_t fit = 0;      // number of saves that have room
  int64_t missing = 0;  // bytes that are missing for all saves
};
// Pure arithmetic. `older`: sizes of the existing checkpoints, the oldest first, all older than the
// first future save. `free`: free bytes.
Room room_for(const SavesToCome& saves, std::span<const int64_t> older, int64_t free);

struct Lack {
  std::string text;  // what is missing; empty if nothing is, or if it is unknown
  int64_t fit = 0;   // number of saves that have room
};
// Explains why a folder of checkpoints lacks room for all saves after `step`.
Lack lack_of_room(const std::string& dir, int64_t step, const SavesToCome& saves,
                  FileSystem* files = nullptr);

// Explains why this process may not write a file of that size (RLIMIT_FSIZE); empty if it may.
std::string lack_of_file_size(int64_t bytes);

}  // namespace lockstep::checkpoint
