// What the system's own file system leaves behind.
#include "checkpoint/file_system.h"

#include <algorithm>
#include <fstream>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

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
  constexpr int64_t kPieces = 160, kPiece = 3 * kMiB;
  std::vector<uint32_t> piece(kPiece / 4);
  const auto fill = [&](int64_t i) {
    for (size_t j = 0; j < piece.size(); ++j) piece[j] = static_cast<uint32_t>(j * 2654435761u + static_cast<uint32_t>(i));
  };
  const std::string path = dir.path() + "/file";
  const auto file = posix_file_system().create(path);
  for (int64_t i = 0; i < kPieces; ++i) fill(i), file->write(piece.data(), kPiece);
  file->sync();
  EXPECT_LE(bytes_in_page_cache(path, kPieces * kPiece), (128 + 64 + 16) * kMiB);

  std::ifstream in(path, std::ios::binary);
  std::vector<uint32_t> got(piece.size());
  for (int64_t i = 0; i < kPieces; ++i) {
    fill(i);
    in.read(reinterpret_cast<char*>(got.data()), kPiece);
    ASSERT_TRUE(in && got == piece) << "piece " << i;
  }
  EXPECT_EQ(in.get(), EOF);
}

}  // namespace
}  // namespace lockstep::checkpoint
