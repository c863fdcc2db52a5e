#include "checkpoint/save/room.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <sys/resource.h>

#include "checkpoint/save/save_job.h"
#include "core/base/number_text.h"

namespace lockstep::checkpoint {
namespace {

std::string text(int64_t bytes) { return size_text(static_cast<double>(bytes)); }

}  // namespace

SaveSize size_of_save(const std::vector<Entry>& entries, comm::ProcessGroup* group) {
  const Plan plan = plan_save(group, entries).plan;
  SaveSize size{.bytes = planned_bytes(plan),
                .largest = std::vector<int64_t>(static_cast<size_t>(plan.ranks))};
  for (size_t file = 0; file < plan.files.size(); ++file) {
    int64_t& largest = size.largest[static_cast<size_t>(plan.files[file].rank)];
    largest = std::max(largest, lay_out_shard(plan, file, /*step=*/0).file_bytes);
  }
  return size;
}

Room room_for(const SavesToCome& saves, std::span<const int64_t> older, int64_t free) {
  const auto count = static_cast<int64_t>(older.size());
  // The number of older checkpoints that are gone while save `n` (counted from 1) is written. Saves
  // remove older ones first, and their own only after more than `keep` saves.
  const auto removed = [&](int64_t n) {
    return saves.keep > 0 && n > 1 ? std::clamp<int64_t>(count - saves.keep + n - 1, 0, count) : 0;
  };
  const int64_t peak = saves.keep > 0 ? std::min(saves.saves - 1, saves.keep) + 1 : saves.saves;
  Room room{.fit = saves.saves, .missing = 0};
  int64_t gone = 0, gone_bytes = 0;
  for (int64_t n = 1; n <= peak; ++n) {
    for (; gone < removed(n); ++gone) gone_bytes += older[static_cast<size_t>(gone)];
    if (n * saves.bytes - gone_bytes <= free) continue;
    room.fit = n - 1;
    const __int128 gone_at_peak =
        std::accumulate(older.begin(), older.begin() + removed(peak), int64_t{0});
    const __int128 at_peak = static_cast<__int128>(peak) * saves.bytes - gone_at_peak;
    const __int128 missing = std::max<__int128>(n * saves.bytes - gone_bytes, at_peak) - free;
    room.missing =
        static_cast<int64_t>(std::min<__int128>(missing, std::numeric_limits<int64_t>::max()));
    break;
  }
  return room;
}

Lack lack_of_room(const std::string& dir, int64_t step, const SavesToCome& saves,
                  FileSystem* files) {
  const std::optional<int64_t> free = (files ? *files : posix_file_system()).free_bytes(dir);
  if (!free) return {.text = {}, .fit = saves.saves};
  std::vector<int64_t> older;
  for (const Listed& each : list(dir))
    if (each.step <= step) older.push_back(each.bytes);
  const Room room = room_for(saves, older, *free);
  if (room.fit == saves.saves) return {.text = {}, .fit = room.fit};
  if (room.fit == 0) return {.text = lack_of_room(dir, saves.bytes, files), .fit = 0};
  const std::string stay = saves.keep > 0 ? str(saves.keep, " stay while the next one is written")
                                          : str("all of them stay");
  return {.text = str("'", dir, "' has ", text(*free), " free, and a checkpoint needs ",
                      text(saves.bytes), ": enough for ", room.fit, " of ", saves.saves,
                      " saves, of which ", stay, "; ", text(room.missing), " more are needed"),
          .fit = room.fit};
}

std::string lack_of_room(const std::string& dir, int64_t needed, FileSystem* files) {
  const std::optional<int64_t> free = (files ? *files : posix_file_system()).free_bytes(dir);
  if (!free || *free >= needed) return {};
  return str("'", dir, "' has ", text(*free), " free, and the checkpoint needs ", text(needed),
             ", ", text(needed - *free), " more");
}

std::string lack_of_file_size(int64_t bytes) {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      limit.rlim_cur >= static_cast<rlim_t>(bytes))
    return {};
  return str("its files may have ", text(static_cast<int64_t>(limit.rlim_cur)),
             " at most (ulimit -f), and one of the checkpoint needs ", text(bytes));
}

}  // namespace lockstep::checkpoint
