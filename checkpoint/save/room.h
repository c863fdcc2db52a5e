// Room for saves to come, looked at before they are made: what they take, and what the disk and the
// system's limits leave for them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace lockstep::checkpoint {

struct SaveSize {
  int64_t bytes = 0;                  // on disk, all files of all ranks together
  std::vector<int64_t> largest = {};  // by rank: of its largest file
};
// Collective over the group (null: a single rank). What a save of these entries takes.
SaveSize size_of_save(const std::vector<Entry>& entries, comm::ProcessGroup* group);

// The next saves of a run.
struct SavesToCome {
  int64_t bytes = 0;  // each takes so many
  int64_t saves = 1;  // how many there are; at least 1
  int64_t keep = 0;   // as in SaveRequest: a save is written before older ones go
};
struct Room {
  int64_t fit = 0;      // the first so many find room
  int64_t missing = 0;  // bytes, for all to find it
};
// Plain arithmetic. `older`: bytes of the checkpoints that are there, oldest first, all from before
// the first save to come. `free`: bytes.
Room room_for(const SavesToCome& saves, std::span<const int64_t> older, int64_t free);

struct Lack {
  std::string text;  // what is lacking; empty: nothing, or nobody knows
  int64_t fit = 0;   // the first so many saves find room
};
// Why the file system of a folder of checkpoints cannot take all saves that come after `step`.
Lack lack_of_room(const std::string& dir, int64_t step, const SavesToCome& saves,
                  FileSystem* files = nullptr);

// Why this process may not write a file of so many bytes (RLIMIT_FSIZE); empty where it may.
std::string lack_of_file_size(int64_t bytes);

}  // namespace lockstep::checkpoint
