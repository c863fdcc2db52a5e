// Room for saves to come: compared with what saves do to a disk.
#include "checkpoint/save/room.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <sys/resource.h>

#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"
#include "tests/support/run_group.h"
#include "tests/support/temp_dir.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::HasSubstr;

std::vector<Entry> small_model() { return {{"a", counting({64, 64})}, {"b", counting({100})}}; }

// Save after save on a disk of so many bytes beside the older checkpoints; returns how many
// succeed, at most `saves`.
int64_t saves_that_succeed(const SavesToCome& saves, std::vector<int64_t> there, int64_t free) {
  for (int64_t n = 0; n < saves.saves; ++n) {
    if (saves.bytes > free) return n;
    free -= saves.bytes;
    there.push_back(saves.bytes);
    while (saves.keep > 0 && static_cast<int64_t>(there.size()) > saves.keep) {
      free += there.front();
      there.erase(there.begin());
    }
  }
  return saves.saves;
}

TEST(Room, IsWhatSavesOneAfterAnotherFind) {
  std::mt19937 random(7);
  const auto below = [&](int64_t end) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(end));
  };
  for (int i = 0; i < 20000; ++i) {
    const SavesToCome saves{.bytes = 1 + below(20), .saves = 1 + below(12), .keep = below(6)};
    std::vector<int64_t> older(static_cast<size_t>(below(6)));
    for (int64_t& bytes : older) bytes = below(2) == 0 ? saves.bytes : below(30);
    const int64_t free = below(100);
    const Room room = room_for(saves, older, free);
    ASSERT_EQ(room.fit, saves_that_succeed(saves, older, free))
        << saves.saves << " saves of " << saves.bytes << ", keep " << saves.keep << ", "
        << older.size() << " older, free " << free;
    if (room.fit == saves.saves) {
      ASSERT_EQ(room.missing, 0);
    } else if (std::all_of(older.begin(), older.end(),
                           [&](int64_t bytes) { return bytes == saves.bytes; })) {
      ASSERT_EQ(room_for(saves, older, free + room.missing).fit, saves.saves);
      ASSERT_LT(room_for(saves, older, free + room.missing - 1).fit, saves.saves);
    }
  }
}

TEST(Room, OfMoreSavesThanADiskCanHoldIsFinite) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const Room all =
      room_for({.bytes = int64_t{1} << 40, .saves = kMost, .keep = 0}, {}, int64_t{3} << 40);
  EXPECT_EQ(all.fit, 3);
  EXPECT_EQ(all.missing, kMost);
  EXPECT_EQ(room_for({.bytes = 1, .saves = kMost, .keep = kMost}, {}, 5).fit, 5);
}

class FullFiles final : public ForwardingFiles {
 public:
  std::optional<int64_t> free_bytes(const std::string&) override { return free; }
  std::optional<int64_t> free;
};

TEST(Room, WhatIsThereAndWillGoCounts) {
  const test::TempDir dir;
  FullFiles files;
  for (int64_t step = 1; step <= 2; ++step)
    save({.dir = dir.path(), .step = step, .entries = small_model()});
  const int64_t bytes = list(dir.path())[0].bytes;
  const SavesToCome saves{.bytes = bytes, .saves = 10, .keep = 2};
  files.free = bytes;
  EXPECT_EQ(lack_of_room(dir.path(), 2, saves, &files).text, "");
  files.free = bytes - 1;
  EXPECT_EQ(lack_of_room(dir.path(), 2, saves, &files).fit, 0);
  EXPECT_THAT(lack_of_room(dir.path(), 2, saves, &files).text, HasSubstr(", 1 B more"));
  // Those of later steps stay: a run that goes on from before them does not remove them.
  files.free = 2 * bytes;
  const Lack lack = lack_of_room(dir.path(), 0, saves, &files);
  EXPECT_EQ(lack.fit, 2);
  EXPECT_THAT(
      lack.text,
      HasSubstr("enough for 2 of 10 saves, of which 2 stay while the next one is written; "));
  EXPECT_EQ(lack_of_room(dir.path(), 2, saves, &files).text, "");
  EXPECT_THAT(lack_of_room(dir.path(), 2, {.bytes = bytes, .saves = 3, .keep = 0}, &files).text,
              HasSubstr("all of them stay"));
  files.free = {};
  EXPECT_EQ(lack_of_room(dir.path(), 2, saves, &files).text, "") << "unknown is not full";
}

TEST(Room, ASaveTakesNoMoreThanWasSaid) {
  const test::TempDir dir;
  std::vector<SaveSize> sizes(3);
  test::expect_success(test::run_group(3, [&](const test::Group& group) {
    const auto entries = small_model();
    sizes[static_cast<size_t>(group->rank())] = size_of_save(entries, group.get());
    save({.dir = dir.path(), .step = 1, .entries = entries, .group = group.get()});
  }));
  const auto saved = Checkpoint::open(dir.path() + "/" + step_folder(1));
  int64_t largest = 0;
  for (const auto& file : saved.manifest().files) largest = std::max(largest, file.bytes);
  for (const SaveSize& size : sizes) {
    ASSERT_EQ(size.largest.size(), 3u);
    EXPECT_EQ(*std::max_element(size.largest.begin(), size.largest.end()), largest);
    EXPECT_GE(size.bytes, list(dir.path())[0].bytes);
  }
}

TEST(Room, ALimitOfFileSizesIsKnownBeforehand) {
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const struct rlimit tight { .rlim_cur = 1000000, .rlim_max = before.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const std::string allowed = lack_of_file_size(1000000), refused = lack_of_file_size(1000001);
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(allowed, "");
  EXPECT_THAT(refused, HasSubstr("at most (ulimit -f), and one of the checkpoint needs"));
}

}  // namespace
}  // namespace lockstep::checkpoint
