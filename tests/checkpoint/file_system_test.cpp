// What the system's own file system leaves behind.
#include "checkpoint/file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <fstream>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/support/error_of.h"
#include "tests/support/temp_dir.h"

namespace lockstep::checkpoint {
namespace {

constexpr int64_t kMiB = 1 << 20;

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

// A save of a large state must not push everything else out of the page cache; and what leaves it is on disk.
TEST(PosixFiles, LargeFilesLeaveThePageCacheButForTheirFirstAndLastPart) {
  const test::TempDir dir;
  struct statfs info {};
  ASSERT_EQ(::statfs(dir.path().c_str(), &info), 0);
  if (info.f_type == TMPFS_MAGIC) GTEST_SKIP() << "skipped: a tmpfs has no disk that pages could leave for";
  if (info.f_type == OVERLAYFS_SUPER_MAGIC) GTEST_SKIP() << "skipped: an overlay's sync_file_range() does not reach the pages below";
  for (const int64_t pieces : {160, 2}) {
    const int64_t bytes = 480 * kMiB;
    std::vector<uint32_t> piece(static_cast<size_t>(bytes / pieces / 4));
    const auto fill = [&](int64_t i) {
      for (size_t j = 0; j < piece.size(); ++j) piece[j] = static_cast<uint32_t>(j * 2654435761u + static_cast<uint32_t>(i));
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

// Writes 16 MiB on a thread whose calls of sync_file_range() with these flags fail, and syncs them. Returns the error; empty: there is
// no such filter here.
std::string write_where_sync_file_range_fails(const std::string& path, unsigned flags, unsigned error) {
  std::string result;
  std::thread([&] {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync_file_range, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 3 * sizeof(uint64_t)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, flags, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{.len = std::size(program), .filter = program};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) return;
    result = test::error_of([&] {
      const std::vector<char> bytes(16 * kMiB);
      const auto file = posix_file_system().create(path);
      file->write(bytes.data(), bytes.size());
      file->sync();
    });
  }).join();
  return result;
}

// ext4 finds room for pages only as it writes them back. Where it does not, it drops them, and tells whoever asked for that, but no
// fsync() after it.
TEST(PosixFiles, PagesThatCouldNotBeWrittenBackAreNoHint) {
  const test::TempDir dir;
  const auto error_with = [&](unsigned error) {
    return write_where_sync_file_range_fails(str(dir.path(), "/", error), SYNC_FILE_RANGE_WRITE, error);
  };
  if (error_with(ENOSYS).empty()) GTEST_SKIP() << "skipped: the system lets no thread filter its calls";
  for (const int error : {ENOSPC, EIO, EDQUOT})
    EXPECT_EQ(error_with(error), str("sync '", dir.path(), "/", error, "' up to byte 8388608: ", errno_text(error)));
  // A system without the call, or one that forbids it, or has no memory for it now: sync() does it all.
  for (const int error : {EPERM, EINVAL, ENOMEM}) EXPECT_EQ(error_with(error), "(no error)") << errno_text(error);
}

}  // namespace
}  // namespace lockstep::checkpoint
