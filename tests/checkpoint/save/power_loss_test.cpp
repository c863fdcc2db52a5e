// The power goes at any operation of a save: on a file system in memory that loses whatever was not
// synced, and on real ones.
#include <cstdlib>

#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "core/base/log.h"
#include "tests/checkpoint/forwarding_files.h"
#include "tests/checkpoint/helpers.h"
#include "tests/checkpoint/memory_files.h"

namespace lockstep::checkpoint {
namespace {

std::vector<Entry> model(int64_t start) {
  return {Entry("a", counting({40}, DType::f32, start)),
          Entry("b", counting({30}, DType::u8, start))};
}

// After a crash in a save of `step` over checkpoints of steps 1 and 2: the newest is complete, and
// old only if the save had not come back. Returns its step.
void expect_old_or_new(FileSystem& files, const std::string& dir, int64_t step, bool saved,
                       const std::string& when) {
  const auto into = model(0);
  Restored restored;
  const std::string error =
      error_of([&] { restored = restore_latest(dir, into, nullptr, {}, &files); });
  ASSERT_EQ(error, "(no error)") << when;
  ASSERT_TRUE(restored.checkpoint) << when;
  ASSERT_TRUE(restored.skipped.empty()) << when << ": " << restored.skipped[0];
  const auto got = bytes_of(into[0].tensor);
  const bool is_new = got == bytes_of(model(3)[0].tensor),
             is_old = got == bytes_of(model(2)[0].tensor);
  ASSERT_TRUE(is_new || (is_old && !saved)) << when << ": step " << restored.checkpoint->step();
  ASSERT_EQ(restored.checkpoint->step(), is_new ? step : 2) << when;
}

// In two files.
bool try_save(const std::string& dir, int64_t step, int64_t start, FileSystem& files) {
  try {
    save({.dir = dir,
          .step = step,
          .entries = model(start),
          .keep = 2,
          .files = &files,
          .two_files_above = 0});
    return true;
  } catch (const EnvironmentError&) {
    return false;
  }
}

// Runs a save of `step` that ends at operation `at`, then cuts the power. False: the save has fewer
// operations.
bool cut_power_in_memory(int64_t step, int64_t at, unsigned seed) {
  MemoryFiles files;
  EXPECT_TRUE(try_save("/runs/a", 1, 1, files));
  EXPECT_TRUE(try_save("/runs/a", 2, 2, files));
  files.crash_at = at;
  const bool saved = try_save("/runs/a", step, 3, files);
  const bool crashed = files.operations > at;
  std::mt19937 random(seed);
  files.power_cut(random);
  expect_old_or_new(files, "/runs/a", step, saved, str("operation ", at, ", seed ", seed));
  // And a run that goes on from there saves as ever.
  EXPECT_TRUE(try_save("/runs/a", 4, 4, files));
  const auto names = files.list("/runs/a");
  EXPECT_EQ(names.back(), "step-00000004");
  EXPECT_EQ(names.size(), 2u);
  return crashed;
}

class PowerLossInMemory : public ::testing::TestWithParam<int64_t> {};
// A new step, and one that replaces a checkpoint.
INSTANTIATE_TEST_SUITE_P(Steps, PowerLossInMemory, ::testing::Values(3, 2));

TEST_P(PowerLossInMemory, LeavesTheOldOrTheNewCheckpoint) {
  log::set_level(log::Level::error);  // hundreds of expected warnings
  constexpr unsigned kSeeds = 60;
  int64_t cases = 0, at = 0;
  for (bool more = true; more && !HasFailure(); ++at)
    for (unsigned seed = 0; seed < kSeeds; ++seed, ++cases)
      more = cut_power_in_memory(GetParam(), at, seed);
  EXPECT_GE(at, 19);
  EXPECT_GE(cases, 1200);
}

// A file system of its own, whose power can be cut: nothing that its journal has not committed is
// left.
class Disk {
 public:
  struct Kind {
    const char* name;
    const char* make;
    const char* size;    // the least that its mkfs takes, and some
    bool can_shut_down;  // by an ioctl, as if the plug was pulled; else what is on disk at that
                         // moment is put aside
    // Less than the size: it promises more than it has, as thinly provisioned volumes do. The
    // system hears of it when it writes pages back, after write() said that all is well. Empty: it
    // has all.
    const char* backed = "";

    friend void PrintTo(const Kind& kind, std::ostream* out) {
      *out << kind.name;
    }  // in the names of tests
  };
  explicit Disk(const Kind& kind) : kind_(kind) {}

  // Empty: it is there; else why it cannot be.
  std::string set_up() {
    if (::geteuid() != 0) return "needs root to mount a file system";
    const std::string program = str("mkfs.", kind_.name);
    if (std::system(str("command -v ", program, " > /dev/null && command -v losetup > /dev/null")
                        .c_str()) != 0)
      return str("needs ", program, " and losetup");
    // Out of sight: a process elsewhere that copies its mounts while ours is among them would keep
    // a file system without power alive.
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      return "cannot have mounts of its own here";
    if (*kind_.backed && !back(0, kind_.backed)) return "cannot mount a tmpfs here";
    const std::string make = str("truncate -s ", kind_.size, " ", image_, " && ", kind_.make, " ",
                                 image_, " > /dev/null && mkdir ", path());
    if (std::system(make.c_str()) != 0) return program + " failed";
    if (!mount()) return str("cannot mount ", kind_.name, " on a loop device here");
    return {};
  }
  ~Disk() {
    if (mounted_) ::umount2(path().c_str(), MNT_DETACH);
    if (*kind_.backed) ::umount2(dir_.path().c_str(), MNT_DETACH);
  }
  std::string path() const { return dir_.path() + "/mnt"; }
  // From now on it has all that it promises.
  void grow() { EXPECT_TRUE(back(MS_REMOUNT, kind_.size)); }

  // Else operations after the cut would work, though nothing of them is left.
  bool fails_without_power() const { return kind_.can_shut_down; }
  void cut_power() {
    if (!kind_.can_shut_down) {
      EXPECT_EQ(std::system(str("cp --sparse=always ", image_, " ", image_, ".cut").c_str()), 0);
      return;
    }
    // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN.
    constexpr unsigned long kShutdown = _IOR('X', 125, uint32_t);
    uint32_t no_log_flush = 2;
    const int fd = ::open(path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    EXPECT_EQ(::ioctl(fd, kShutdown, &no_log_flush), 0);
    ::close(fd);
  }
  bool mount() {
    if (!kind_.can_shut_down)
      std::system(str("test ! -e ", image_, ".cut || mv ", image_, ".cut ", image_).c_str());
    mounted_ =
        std::system(str("mount -o loop ", image_, " ", path(), " 2> /dev/null").c_str()) == 0;
    return mounted_;
  }
  bool unmount() {
    mounted_ = std::system(str("umount ", path()).c_str()) != 0;
    return !mounted_;
  }

 private:
  bool back(unsigned long flags, const char* size) {
    return ::mount("none", dir_.path().c_str(), "tmpfs", flags, str("size=", size).c_str()) == 0;
  }

  const Kind kind_;
  test::TempDir dir_;
  std::string image_ = dir_.path() + "/image";
  bool mounted_ = false;
};

constexpr Disk::Kind
    kExt4 = {"ext4", "mkfs.ext4 -q", "24M", true},
    kXfs = {"xfs", "mkfs.xfs -q", "320M", true},
    kBtrfs = {"btrfs", "mkfs.btrfs -q --mixed", "64M", false},
    // Without a journal: it would end the file system as soon as it could not be written itself.
    kThinExt4 = {"ext4", "mkfs.ext4 -q -O ^has_journal", "640M", true, "96M"};

// The plug is pulled before operation `at`.
class UnpluggedFiles final : public ForwardingFiles {
 public:
  UnpluggedFiles(Disk& disk, int64_t at) : disk_(disk), left_(at) {}
  bool unplugged() const { return left_ < 0; }

  std::unique_ptr<WritableFile> create(const std::string& path) override {
    operation();
    return std::make_unique<File>(*this, real_.create(path));
  }
  void make_directories(const std::string& path) override {
    operation(), real_.make_directories(path);
  }
  void make_directory(const std::string& path) override { operation(), real_.make_directory(path); }
  void sync_directory(const std::string& path) override { operation(), real_.sync_directory(path); }
  void rename_directory(const std::string& from, const std::string& to) override {
    operation(), real_.rename_directory(from, to);
  }
  void remove_all(const std::string& path) override { operation(), real_.remove_all(path); }

 private:
  class File final : public ForwardingFile {
   public:
    File(UnpluggedFiles& files, std::unique_ptr<WritableFile> real)
        : ForwardingFile(std::move(real)), files_(files) {}
    void write(const void* data, size_t bytes) override {
      files_.operation(), real_->write(data, bytes);
    }
    void sync() override { files_.operation(), real_->sync(); }

   private:
    UnpluggedFiles& files_;
  };
  void operation() {
    if (left_-- == 0) disk_.cut_power();
    if (left_ < 0 && !disk_.fails_without_power()) throw EnvironmentError("the power is off");
  }

  Disk& disk_;
  int64_t left_;
};

class PowerLossOnDisk : public ::testing::TestWithParam<Disk::Kind> {};
INSTANTIATE_TEST_SUITE_P(FileSystems, PowerLossOnDisk, ::testing::Values(kExt4, kXfs, kBtrfs),
                         [](const auto& each) { return std::string(each.param.name); });

TEST_P(PowerLossOnDisk, LeavesTheOldOrTheNewCheckpoint) {
  log::set_level(log::Level::error);
  Disk disk(GetParam());
  if (const std::string reason = disk.set_up(); !reason.empty())
    GTEST_SKIP() << "skipped: " << reason;
  int64_t cases = 0;
  for (const int64_t step : {3, 2})
    for (int64_t at = 0; !HasFailure(); ++at, ++cases) {
      const std::string dir = disk.path() + str("/run-", step, "-", at);
      ASSERT_TRUE(try_save(dir, 1, 1, posix_file_system()));
      ASSERT_TRUE(try_save(dir, 2, 2, posix_file_system()));
      UnpluggedFiles files(disk, at);
      const bool saved = try_save(dir, step, 3, files);
      if (!files.unplugged()) {
        ASSERT_TRUE(saved);
        disk.cut_power();  // after the save came back
      }
      ASSERT_TRUE(disk.unmount() && disk.mount());
      expect_old_or_new(posix_file_system(), dir, step, saved, str("operation ", at));
      posix_file_system().remove_all(dir);
      if (!files.unplugged()) break;
    }
  EXPECT_GE(cases, 30);
}

TEST(FullDisk, IsNamedAndLeavesNothingBehind) {
  Disk disk(kExt4);
  if (const std::string reason = disk.set_up(); !reason.empty())
    GTEST_SKIP() << "skipped: " << reason;
  // Says that there is room, so that the disk itself has to say no.
  class HopefulFiles final : public ForwardingFiles {
   public:
    std::optional<int64_t> free_bytes(const std::string&) override { return int64_t{1} << 40; }
  };
  const std::string dir = disk.path() + "/run";
  ASSERT_TRUE(try_save(dir, 1, 1, posix_file_system()));
  const std::vector<Entry> large = {Entry("w", counting({12 << 20}))};  // 48 MiB
  HopefulFiles files;
  EXPECT_THAT(error_of([&] { save({.dir = dir, .step = 2, .entries = large, .files = &files}); }),
              ::testing::AllOf(::testing::HasSubstr("write '" + dir),
                               ::testing::HasSubstr("No space left on device (errno 28)")));
  EXPECT_THAT(error_of([&] { save({.dir = dir, .step = 2, .entries = large}); }),
              ::testing::AllOf(::testing::HasSubstr(dir + "' has "),
                               ::testing::ContainsRegex("needs 5[01]\\.[0-9] MB")));
  EXPECT_THAT(names_in(dir), ::testing::ElementsAre("step-00000001"));
  EXPECT_TRUE(try_save(dir, 3, 3, posix_file_system()));
}

// The system tells once of pages that did not reach the disk: a large file, whose pages leave the
// page cache before sync(), hears of it then.
TEST(FullThinDisk, IsNamedBeforePagesLeaveThePageCache) {
  Disk disk(kThinExt4);
  if (const std::string reason = disk.set_up(); !reason.empty())
    GTEST_SKIP() << "skipped: " << reason;
  const std::string dir = disk.path() + "/run";
  ASSERT_TRUE(try_save(dir, 1, 1, posix_file_system()));
  const std::vector<Entry> large = {Entry("w", counting({80 << 20}))};  // 320 MiB
  EXPECT_THAT(
      error_of([&] {
        save({.dir = dir, .step = 2, .entries = large, .two_files_above = int64_t{1} << 40});
      }),
      ::testing::AllOf(::testing::HasSubstr("sync '" + dir),
                       ::testing::HasSubstr("' up to byte 142606336: "),
                       ::testing::AnyOf(::testing::HasSubstr("Input/output error"),
                                        ::testing::HasSubstr("No space left"))));
  EXPECT_THAT(names_in(dir), ::testing::ElementsAre("step-00000001"));
  disk.grow();
  save({.dir = dir, .step = 3, .entries = large, .two_files_above = int64_t{1} << 40});
  const std::vector<Entry> into = {Entry("w", Tensor::zeros({80 << 20}))};
  EXPECT_EQ(restore_latest(dir, into, nullptr).checkpoint->step(), 3);
  EXPECT_EQ(bytes_of(into[0].tensor), bytes_of(large[0].tensor));
}

}  // namespace
}  // namespace lockstep::checkpoint
