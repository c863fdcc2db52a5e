// Two starts of the ranks at one folder: the earlier one can change nothing any more.
#include "checkpoint/save/claim.h"

#include <gmock/gmock.h>

#include "checkpoint/save/saver.h"
#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"
#include "tests/support/temp_dir.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Entry> model() { return {{"a", counting({64})}}; }

// Calls `now` before the manifest is written.
class BeforeCommit : public ForwardingFiles {
 public:
  std::function<void()> now;
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    if (path.ends_with(Manifest::kFileName) && now) std::exchange(now, nullptr)();
    return ForwardingFiles::create(path);
  }
};

TEST(Claim, AnEarlierEpochCannotSave) {
  const test::TempDir dir;
  FileSystem& files = posix_file_system();
  const std::string first = claim_folder(files, dir.path(), "run", 1);
  save({.dir = dir.path(), .step = 1, .entries = model(), .claim = first});
  const std::string second = claim_folder(files, dir.path(), "run", 2);
  EXPECT_THAT(
      error_of([&] { save({.dir = dir.path(), .step = 2, .entries = model(), .claim = first}); }),
      HasSubstr("does not belong to these ranks"));
  EXPECT_THAT(names_in(dir.path()), ElementsAre(second, "step-00000001"));
  save({.dir = dir.path(), .step = 3, .entries = model(), .claim = second});
  EXPECT_THAT(names_in(dir.path()), ElementsAre(second, "step-00000001", "step-00000003"));
}

TEST(Claim, AnEarlierEpochCannotCommitWhatItHasBegun) {
  const test::TempDir dir;
  BeforeCommit files;
  std::string second;
  const std::string first = claim_folder(files, dir.path(), "run", 1);
  files.now = [&] { second = claim_folder(files, dir.path(), "run", 2); };
  EXPECT_NE(
      error_of([&] {
        save({.dir = dir.path(), .step = 2, .entries = model(), .files = &files, .claim = first});
      }),
      "");
  EXPECT_THAT(names_in(dir.path()), ElementsAre(second));
}

TEST(Claim, AnEarlierEpochDoesNotRemoveWhatALaterOneIsWriting) {
  const test::TempDir dir;
  BeforeCommit files;
  const std::string first = claim_folder(files, dir.path(), "run", 1),
                    second = claim_folder(files, dir.path(), "run", 2);
  files.now = [&] {
    EXPECT_NE(
        error_of([&] { save({.dir = dir.path(), .step = 2, .entries = model(), .claim = first}); }),
        "");
  };
  save({.dir = dir.path(), .step = 5, .entries = model(), .files = &files, .claim = second});
  EXPECT_THAT(names_in(dir.path()), ElementsAre(second, "step-00000005"));
}

TEST(Claim, OnlyALaterEpochOrAnotherJobTakesTheFolder) {
  const test::TempDir dir;
  FileSystem& files = posix_file_system();
  claim_folder(files, dir.path(), "run", 10);
  EXPECT_THAT(error_of([&] { claim_folder(files, dir.path(), "run", 9); }),
              HasSubstr("belongs to a later epoch of this job"));
  const std::string other = claim_folder(files, dir.path(), "another run", 1);
  EXPECT_THAT(names_in(dir.path()), ElementsAre(other));
  EXPECT_EQ(claim_folder(files, dir.path(), "another run", 1), other) << "the same once more";
}

}  // namespace
}  // namespace lockstep::checkpoint
