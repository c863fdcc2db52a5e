// What the system's own file system leaves behind.
#include "checkpoint/files/file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <limits>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/support/error_of.h"
#include "tests/support/failing_calls.h"
#include "tests/support/temp_dir.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMiB = 1 << 20;

std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

int64_t bytes_in_page_cache(const std::string& path, int64_t bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* at = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  EXPECT_NE(at, MAP_FAILED);
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> pages(static_cast<size_t>((bytes + page - 1) / page));
  EXPECT_EQ(::mincore(at, static_cast<size_t>(bytes), pages.data()), 0);
  ::munmap(at, static_cast<size_t>(bytes));
  return page * std::count_if(pages.begin(), pages.end(), [](unsigned char in) { return in & 1; });
}

// A save of a large state must not push everything else out of the page cache; and what leaves it
// is on disk.
TEST(PosixFiles, LargeFilesLeaveThePageCacheButForTheirFirstAndLastPart) {
  const test::TempDir dir;
  struct statfs info {};
  ASSERT_EQ(::statfs(dir.path().c_str(), &info), 0);
  if (info.f_type == TMPFS_MAGIC)
    GTEST_SKIP() << "skipped: a tmpfs has no disk that pages could leave for";
  if (info.f_type == OVERLAYFS_SUPER_MAGIC)
    GTEST_SKIP() << "skipped: an overlay's sync_file_range() does not reach the pages below";
  for (const int64_t pieces : {160, 2}) {
    const int64_t bytes = 480 * kMiB;
    std::vector<uint32_t> piece(static_cast<size_t>(bytes / pieces / 4));
    const auto fill = [&](int64_t i) {
      for (size_t j = 0; j < piece.size(); ++j)
        piece[j] = static_cast<uint32_t>(j * 2654435761u + static_cast<uint32_t>(i));
    };
    const std::string path = str(dir.path(), "/", pieces);
    const auto file = posix_file_system().create(path);
    for (int64_t i = 0; i < pieces; ++i) fill(i), file->write(piece.data(), piece.size() * 4);
    file->sync();
    EXPECT_LE(bytes_in_page_cache(path, bytes), (128 + 64 + 16) * kMiB);

    std::ifstream in(path, std::ios::binary);
    std::vector<uint32_t> got(piece.size());
    for (int64_t i = 0; i < pieces; ++i) {
      fill(i);
      in.read(reinterpret_cast<char*>(got.data()), static_cast<std::streamsize>(got.size() * 4));
      ASSERT_TRUE(in && got == piece) << "piece " << i << " of " << pieces;
    }
    EXPECT_EQ(in.get(), EOF);
  }
}

// Writes 16 MiB on a thread whose calls of sync_file_range() with these flags fail, and syncs them.
// Returns the error; empty: there is no such filter here.
std::string write_where_sync_file_range_fails(const std::string& path, unsigned flags,
                                              unsigned error) {
  std::string result;
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync_file_range, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 3 * sizeof(uint64_t)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, flags, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  test::where_calls_fail(program, [&] {
    result = test::error_of([&] {
      const std::vector<char> bytes(16 * kMiB);
      const auto file = posix_file_system().create(path);
      file->write(bytes.data(), bytes.size());
      file->sync();
    });
  });
  return result;
}

// Some network and user-space file systems know no fsync() of a folder.
TEST(PosixFiles, AFolderThatCannotBeSyncedIsNoError) {
  const test::TempDir dir;
  const auto error_with = [&](int error) {
    std::string result;
    if (!test::where_call_fails(SYS_fsync, error, [&] {
          result = test::error_of([&] { posix_file_system().sync_directory(dir.path()); });
        }))
      return std::string("not filtered");
    return result;
  };
  if (error_with(EINVAL) == "not filtered")
    GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP, EBADF})
    EXPECT_EQ(error_with(error), "(no error)") << errno_text(error);
  for (const int error : {EIO, ENOSPC})
    EXPECT_EQ(error_with(error), str("sync folder '", dir.path(), "': ", errno_text(error)));
}

// procfs counts no blocks, as some user-space file systems; a full disk has some, none of which is
// free.
TEST(PosixFiles, WhatHasNoBlocksDoesNotSayWhatIsFree) {
  EXPECT_EQ(posix_file_system().free_bytes("/proc"), std::nullopt);
  const test::TempDir dir;
  EXPECT_GT(posix_file_system().free_bytes(dir.path()).value_or(0), 0);
  std::optional<int64_t> free = -1;
  if (!test::where_call_fails(SYS_statfs, ENOSYS,
                              [&] { free = posix_file_system().free_bytes(dir.path()); }))
    GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
  EXPECT_EQ(free, std::nullopt);
}

// Some say 2^64 − 1 blocks where they know no limit, and some leave f_frsize 0.
TEST(PosixFiles, WhatIsFreeIsCountedInBytes) {
  const auto free = [](uint64_t blocks, uint64_t available, uint64_t fragment, uint64_t block) {
    struct statvfs info {};
    info.f_blocks = blocks;
    info.f_bavail = available;
    info.f_frsize = fragment;
    info.f_bsize = block;
    return free_bytes_of(info);
  };
  constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(free(100, 10, 512, 4096), 5120);
  EXPECT_EQ(free(100, 10, 0, 4096), 40960);
  EXPECT_EQ(free(100, 0, 512, 4096), 0);
  EXPECT_EQ(free(kAll, kAll, 4096, 4096), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(free(kAll, uint64_t{1} << 52, 4096, 4096), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(free(0, 10, 512, 4096), std::nullopt);
  EXPECT_EQ(free(100, 10, 0, 0), std::nullopt);
}

// A group of people shares a run by their umask.
TEST(PosixFiles, RightsAreThoseOfTheUmask) {
  const test::TempDir dir;
  const auto rights = [&](const std::string& name) {
    struct stat info {};
    EXPECT_EQ(::stat((dir.path() + "/" + name).c_str(), &info), 0);
    return info.st_mode & 0777;
  };
  for (const mode_t mask : {0002, 0077}) {
    const mode_t before = ::umask(mask);
    const std::string name = str("m", mask);
    posix_file_system().create(dir.path() + "/" + name + "f");
    posix_file_system().make_directory(dir.path() + "/" + name + "d");
    posix_file_system().make_directories(dir.path() + "/" + name + "e/x");
    ::umask(before);
    EXPECT_EQ(rights(name + "f"), 0666 & ~mask);
    for (const char* folder : {"d", "e", "e/x"})
      EXPECT_EQ(rights(name + folder), 0777 & ~mask) << folder;
  }
}

// ext4 finds room for pages only as it writes them back. Where it does not, it drops them, and
// tells whoever asked for that, but no fsync() after it.
TEST(PosixFiles, PagesThatCouldNotBeWrittenBackAreNoHint) {
  const test::TempDir dir;
  const auto error_with = [&](unsigned error) {
    return write_where_sync_file_range_fails(str(dir.path(), "/", error), SYNC_FILE_RANGE_WRITE,
                                             error);
  };
  if (error_with(ENOSYS).empty())
    GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
  for (const int error : {ENOSPC, EIO, EDQUOT})
    EXPECT_EQ(error_with(error),
              str("sync '", dir.path(), "/", error, "' up to byte 8388608: ", errno_text(error)));
  // A system without the call, or one that forbids it, or has no memory for it now: sync() does it
  // all.
  for (const int error : {EPERM, EINVAL, ENOMEM})
    EXPECT_EQ(error_with(error), "(no error)") << errno_text(error);
}

TEST(WholeFiles, AreThereWholeOrNotAtAll) {
  const test::TempDir dir;
  const std::string path = dir.path() + "/" + std::string(250, 'n');  // no longer name is possible
  const auto half = [](const std::string& aside) {
    posix_file_system().create(aside)->write("ha", 2);
    throw EnvironmentError("no space");
  };
  EXPECT_EQ(test::error_of([&] { write_whole_file(path, half); }), "no space");
  EXPECT_THAT(posix_file_system().list(dir.path()), testing::IsEmpty());
  write_whole_file(path, "first");
  EXPECT_EQ(content_of(path), "first");
  EXPECT_THAT(test::error_of([&] { write_whole_file(path, "second"); }),
              testing::HasSubstr("File exists"));
  EXPECT_EQ(test::error_of([&] { write_whole_file(path, half, /*replaces=*/true); }), "no space");
  EXPECT_EQ(content_of(path), "first");
  write_whole_file(path, "second", /*replaces=*/true);
  EXPECT_EQ(content_of(path), "second");
  EXPECT_THAT(posix_file_system().list(dir.path()), testing::SizeIs(1));
}

// A checkpoint of the same step is replaced also where the system cannot exchange two folders.
TEST(PosixFiles, FoldersAreReplacedWithoutTheSystemsHelp) {
  for (const int error : {EINVAL, ENOSYS, EOPNOTSUPP, EBADF}) {
    const test::TempDir dir;
    const std::string old = dir.path() + "/old", fresh = dir.path() + "/new";
    for (const std::string& folder : {old, fresh}) {
      posix_file_system().make_directory(folder);
      std::ofstream(folder + "/file") << folder;
    }
    std::string said;
    const bool filtered = test::where_call_fails(SYS_renameat2, error, [&] {
      said = test::error_of([&] { posix_file_system().rename_directory(fresh, old); });
    });
    if (!filtered) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
    EXPECT_EQ(said, "(no error)") << errno_text(error);
    EXPECT_EQ(content_of(old + "/file"), fresh);
    EXPECT_EQ(content_of(fresh + "/file"), old);
  }
}

// Of file systems that rename, some cannot refuse to replace.
TEST(WholeFiles, ReplaceNothingWithoutTheSystemsHelpEither) {
  const test::TempDir dir;
  const std::string path = dir.path() + "/file";
  std::string error;
  const bool filtered = test::where_call_fails(SYS_renameat2, EINVAL, [&] {
    write_whole_file(path, "first");
    error = test::error_of([&] { write_whole_file(path, "second"); });
  });
  if (!filtered) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
  EXPECT_THAT(error, testing::HasSubstr("File exists"));
  EXPECT_EQ(content_of(path), "first");
  EXPECT_THAT(posix_file_system().list(dir.path()), testing::SizeIs(1));
}

// exFAT and others know no links either.
TEST(WholeFiles, NeedNoLinks) {
  const test::TempDir dir;
  const std::string path = dir.path() + "/file";
  for (const int forbidden : {EPERM, EOPNOTSUPP, ENOSYS}) {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
#ifdef SYS_link
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_link, 1, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_linkat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(forbidden)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    std::string first, second;
    const bool filtered = test::where_calls_fail(program, [&] {
      first = test::error_of([&] { write_whole_file(path, "first"); });
      second = test::error_of([&] { write_whole_file(path, "second"); });
    });
    if (!filtered) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
    EXPECT_EQ(first, "(no error)") << errno_text(forbidden);
    EXPECT_THAT(second, testing::HasSubstr("File exists"));
    EXPECT_EQ(content_of(path), "first");
    EXPECT_THAT(posix_file_system().list(dir.path()), testing::SizeIs(1));
    std::filesystem::remove(path);
  }
}

}  // namespace
}  // namespace lockstep::checkpoint
