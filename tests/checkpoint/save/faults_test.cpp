// What can go wrong while saving: full disks, failing ones, and a crash after any operation.
#include <csignal>
#include <map>

#include <sys/resource.h>

#include "checkpoint/save/saver.h"
#include "core/base/log.h"
#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Entry> small_model(int64_t start = 0) {
  return {Entry("a", counting({4}, DType::f32, start)),
          Entry("b", counting({3}, DType::u8, start))};
}
// A file system whose operations fail from a chosen one on. `crash`: the process is gone – nothing
// works any more, not even tidying up – and what was written but not synced is lost.
class FaultyFiles final : public FileSystem {
 public:
  FaultyFiles(int64_t fail_at, bool crash) : left_(fail_at), crash_(crash) {}

  std::unique_ptr<WritableFile> create(const std::string& path) override {
    operation("create", path);
    synced_[path] = 0;
    return std::make_unique<File>(*this, path, real_.create(path));
  }
  void make_directories(const std::string& path) override {
    operation("make", path), real_.make_directories(path);
  }
  void make_directory(const std::string& path) override {
    operation("make", path), real_.make_directory(path);
  }
  void sync_directory(const std::string& path) override {
    operation("sync", path), real_.sync_directory(path);
  }
  void rename_directory(const std::string& from, const std::string& to) override {
    operation("rename", from), real_.rename_directory(from, to);
  }
  void remove_all(const std::string& path) override {
    operation("remove", path), real_.remove_all(path);
  }
  std::vector<std::string> list(const std::string& path) override { return real_.list(path); }
  std::unique_ptr<ReadableFile> open(const std::string& path) override { return real_.open(path); }
  std::optional<int64_t> free_bytes(const std::string& path) override {
    return real_.free_bytes(path);
  }

  bool failed() const { return failed_; }
  // Cuts every file that still has its name back to what was synced.
  void lose_unsynced() const {
    for (const auto& [path, bytes] : synced_)
      if (std::filesystem::exists(path)) std::filesystem::resize_file(path, bytes);
  }

 private:
  class File final : public WritableFile {
   public:
    File(FaultyFiles& files, std::string path, std::unique_ptr<WritableFile> real)
        : files_(files), path_(std::move(path)), real_(std::move(real)) {}
    void write(const void* data, size_t bytes) override {
      files_.operation("write", path_), real_->write(data, bytes);
    }
    void sync() override {
      files_.operation("sync", path_);
      real_->sync();
      files_.synced_[path_] = std::filesystem::file_size(path_);
    }

   private:
    FaultyFiles& files_;
    std::string path_;
    std::unique_ptr<WritableFile> real_;
  };

  void operation(const std::string& name, const std::string& path) {
    const bool fails = left_-- == 0 || (crash_ && failed_);
    if (!fails) return;
    failed_ = true;
    throw EnvironmentError(name + " '" + path + "': Input/output error (errno 5)");
  }

  FileSystem& real_ = posix_file_system();
  std::map<std::string, uintmax_t> synced_;
  int64_t left_;
  bool crash_, failed_ = false;
};

// Tries a failure at every operation of a save; returns how many there are.
int64_t try_every_operation(bool crash, bool same_step, int64_t two_files_above) {
  log::set_level(log::Level::error);  // dozens of expected warnings
  for (int64_t at = 0;; ++at) {
    SCOPED_TRACE(str("operation ", at));
    const test::TempDir dir;
    save({.dir = dir.path(), .step = 1, .entries = small_model(0)});
    save({.dir = dir.path(), .step = 2, .entries = small_model(10)});
    FaultyFiles files(at, crash);
    const int64_t step = same_step ? 2 : 3;
    bool saved = true;
    try {
      save({.dir = dir.path(),
            .step = step,
            .entries = small_model(20),
            .keep = 2,
            .files = &files,
            .two_files_above = two_files_above});
    } catch (const EnvironmentError& e) {
      saved = false;
      EXPECT_THAT(e.what(),
                  AllOf(HasSubstr(str("step ", step, " was not saved")), HasSubstr("errno 5")));
    }
    if (crash) files.lose_unsynced();

    // Whatever happened, there is a newest checkpoint, complete and old or complete and new.
    const LatestGood found = latest_good(dir.path());
    EXPECT_TRUE(found.skipped.empty());
    EXPECT_TRUE(found.checkpoint);
    if (!found.checkpoint) return at;
    const auto values = bytes_of(found.checkpoint->read_whole("a"));
    const auto older = bytes_of(small_model(10)[0].tensor),
               newer = bytes_of(small_model(20)[0].tensor);
    EXPECT_TRUE(values == newer || (!saved && values == older));
    if (!saved && !crash) {
      EXPECT_EQ(values, older);
      EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001", "step-00000002"));
    }

    // And the next save works and leaves nothing behind.
    save({.dir = dir.path(), .step = 4, .entries = small_model(30), .keep = 1});
    EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000004"));
    if (!files.failed()) return at;
  }
}

class FaultsOfASave : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Files, FaultsOfASave, ::testing::Values(kTwoFilesAbove, 0),
                         [](const auto& each) {
                           return each.param == 0 ? "two_a_rank" : "one_a_rank";
                         });

TEST_P(FaultsOfASave, AnOperationThatFailsLeavesWhatWasThere) {
  const int64_t least = GetParam() == 0 ? 14 : 10;
  EXPECT_GT(try_every_operation(/*crash=*/false, /*same_step=*/false, GetParam()), least);
  EXPECT_GT(try_every_operation(/*crash=*/false, /*same_step=*/true, GetParam()), least);
}

TEST_P(FaultsOfASave, ACrashAfterAnyOperationLosesNothing) {
  const int64_t least = GetParam() == 0 ? 14 : 10;
  EXPECT_GT(try_every_operation(/*crash=*/true, /*same_step=*/false, GetParam()), least);
  EXPECT_GT(try_every_operation(/*crash=*/true, /*same_step=*/true, GetParam()), least);
}

TEST(Faults, OneRanksDiskIsEveryRanksFailure) {
  const test::TempDir dir;
  with_ranks(2, [&](comm::ProcessGroup& group) {
    save({.dir = dir.path(), .step = 1, .entries = small_model(), .group = &group});
    FaultyFiles files(1, /*crash=*/false);  // rank 1's first operation after creating its file
    SaveRequest request{.dir = dir.path(),
                        .step = 2,
                        .entries = small_model(),
                        .metadata = {},
                        .keep = 1,
                        .group = &group,
                        .files = nullptr};
    if (group.rank() == 1) request.files = &files;
    const std::string error = error_of([&] { save(request); });
    EXPECT_THAT(error, AllOf(HasSubstr("step 2 was not saved: rank 1: write '"),
                             HasSubstr("shard-00001-of-00002.safetensors': Input/output")));
  });
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001"));
}

// Rank 1 has two files; each of its operations on either of them fails once.
TEST(Faults, EitherFileOfARankIsNamed) {
  const test::TempDir dir;
  const auto model = [] {
    auto entries = small_model();
    for (const char* name : {"c", "d"}) entries.emplace_back(name, counting({4}));
    return entries;
  };
  std::map<std::string, int> failures;  // by operation and file
  for (int64_t at = 0; at < 8; ++at)
    with_ranks(2, [&](comm::ProcessGroup& group) {
      FaultyFiles files(at, /*crash=*/false);
      SaveRequest request{
          .dir = dir.path(), .step = 2, .entries = model(), .group = &group, .two_files_above = 0};
      if (group.rank() == 1) request.files = &files;
      const std::string error = error_of([&] { save(request); });
      ASSERT_THAT(error, HasSubstr("step 2 was not saved: rank 1: "));
      if (group.rank() != 0) return;
      const std::string operation = error.substr(error.find("rank 1: ") + 8);
      ++failures[operation.substr(0, operation.find(' ')) + " " +
                 operation.substr(operation.find("shard-"), 20)];
    });
  EXPECT_THAT(failures, ElementsAre(std::pair("create shard-00002-of-00004", 1),
                                    std::pair("create shard-00003-of-00004", 1),
                                    std::pair("sync shard-00002-of-00004", 1),
                                    std::pair("sync shard-00003-of-00004", 1),
                                    std::pair("write shard-00002-of-00004", 2),
                                    std::pair("write shard-00003-of-00004", 2)));
  EXPECT_TRUE(names_in(dir.path()).empty());
}

// Files of this process may not grow beyond the limit while it lives: writes fail with EFBIG.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

TEST(Faults, AFullDiskIsReportedWithPathAndReason) {
  const test::TempDir dir;
  save({.dir = dir.path(), .step = 1, .entries = small_model()});
  {
    const FileSizeLimit limit(64 << 10);
    const std::string error = error_of([&] {
      save({.dir = dir.path(), .step = 2, .entries = {Entry("w", counting({1 << 20}))}});
    });
    EXPECT_THAT(error, AllOf(HasSubstr("write '"),
                             HasSubstr("shard-00000-of-00001.safetensors' at byte 65536"),
                             HasSubstr("errno 27")));
  }
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001"));
}

// Files whose folders of some name cannot be removed, or not be renamed either: another user's, or
// one that holds an open file of NFS.
class StuckFiles final : public ForwardingFiles {
 public:
  void remove_all(const std::string& path) override {
    if (path.find("step-00000001") != std::string::npos && std::filesystem::exists(path))
      throw EnvironmentError("remove '" + path + "': Device or resource busy (errno 16)");
    real_.remove_all(path);
  }
  void rename_directory(const std::string& from, const std::string& to) override {
    if (!renames &&
        (from.ends_with("step-00000001") || from.find(".tmp-left") != std::string::npos))
      throw EnvironmentError("rename '" + from + "': Permission denied (errno 13)");
    real_.rename_directory(from, to);
  }
  bool renames = true;
};

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Faults, WhatCannotBeRemovedEndsNoSaves) {
  log::set_level(log::Level::warn);
  for (const bool renames : {true, false}) {
    const test::TempDir dir;
    StuckFiles files;
    files.renames = renames;
    // Left by a crash; and one that `keep` is to remove.
    for (const std::string name : {"step-00000001.tmp-left1", "step-00000001.tmp-left2"})
      std::filesystem::create_directory(dir.path() + "/" + name);
    testing::internal::CaptureStderr();
    for (int64_t step = 1; step <= 5; ++step)
      save({.dir = dir.path(),
            .step = step,
            .entries = small_model(step),
            .keep = 2,
            .files = &files});
    {
      Saver saver({.dir = dir.path(), .keep = 2, .files = &files});
      saver.start(6, small_model(6), {});
      EXPECT_EQ(saver.wait()->error, "");
    }
    const std::string said = testing::internal::GetCapturedStderr();
    // The old checkpoint is gone, or no part of it is.
    std::vector<std::string> good;
    for (const Listed& each : list(dir.path(), Check::everything)) {
      EXPECT_EQ(each.problem, "");
      good.push_back(step_folder(each.step));
    }
    std::vector<std::string> expected = {"step-00000005", "step-00000006"};
    if (!renames) expected.insert(expected.begin(), "step-00000001");
    EXPECT_EQ(good, expected);
    EXPECT_EQ(count_of(said, renames ? "Device or resource busy" : "could not be removed"), 3u)
        << "once for each folder: " << said;
    EXPECT_EQ(count_of(said, "later saves try again"), 3u) << said;
  }
  log::set_level(log::Level::error);
}

// Its folder stays, and with it all that it has written: another name must keep it from being
// committed.
TEST(Faults, AWriterWhoseFolderCannotBeRemovedCommitsNothing) {
  const test::TempDir dir;
  const std::string aside = dir.path() + "/step-00000001.tmp-left1";
  std::filesystem::create_directory(aside);
  StuckFiles files;
  testing::internal::CaptureStderr();
  save({.dir = dir.path(), .step = 2, .entries = small_model(), .files = &files});
  testing::internal::GetCapturedStderr();
  EXPECT_FALSE(std::filesystem::exists(aside));
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001.tmp-left1.old", "step-00000002"));
}

TEST(Faults, AFileSystemThatDoesNotSayWhatIsFreeIsNotFull) {
  class SilentFiles final : public ForwardingFiles {
   public:
    std::optional<int64_t> free_bytes(const std::string&) override { return free; }
    std::optional<int64_t> free;
  };
  const test::TempDir dir;
  SilentFiles files;
  save({.dir = dir.path(), .step = 1, .entries = small_model(), .files = &files});
  EXPECT_EQ(lack_of_room(dir.path(), int64_t{1} << 60, &files), "");
  files.free = 0;
  EXPECT_THAT(error_of([&] {
                save({.dir = dir.path(), .step = 2, .entries = small_model(), .files = &files});
              }),
              HasSubstr("has 0 B free"));
  EXPECT_THAT(names_in(dir.path()), ElementsAre("step-00000001"));
}

TEST(Faults, AFolderThatCannotBeMadeIsNamed) {
  const test::TempDir dir;
  write_file(dir.path() + "/file", "x");
  EXPECT_THAT(
      error_of([&] { save({.dir = dir.path() + "/file", .step = 1, .entries = small_model()}); }),
      HasSubstr("make folder '" + dir.path()));
}

}  // namespace
}  // namespace lockstep::checkpoint
