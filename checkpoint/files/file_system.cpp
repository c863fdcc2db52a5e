#include "checkpoint/files/file_system.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <random>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

[[noreturn]] void fail(const char* operation, const std::string& path, int error) {
  throw EnvironmentError(str(operation, " '", path, "': ", errno_text(error)));
}

[[noreturn]] void fail_rename(const std::string& from, const std::string& to, int error) {
  throw EnvironmentError(str("rename '", from, "' to '", to, "': ", errno_text(error)));
}

// Whether a file system reports with this error that it lacks the operation.
bool lacks_operation(int error) {
  return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP || error == EBADF;
}

// fsync, repeated when a signal interrupts it.
int sync_fd(int fd) {
  int result;
  do result = ::fsync(fd);
  while (result != 0 && errno == EINTR);
  return result;
}

class PosixFile final : public WritableFile {
 public:
  explicit PosixFile(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail("create", path_, errno);
    struct statfs info {};
    // On overlayfs, sync_file_range() does nothing. Pages would be dropped without a check that
    // they are on disk.
    can_drop_ = ::fstatfs(fd_, &info) == 0 && info.f_type != OVERLAYFS_SUPER_MAGIC;
  }
  // Data is safe once sync() has returned, so an error of close() does not matter.
  ~PosixFile() override { ::close(fd_); }

  void write(const void* data, size_t bytes) override {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const int64_t piece = kBeginBytes - at_ % kBeginBytes;
      const ssize_t written = ::write(fd_, from, std::min(bytes, static_cast<size_t>(piece)));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0)
        throw EnvironmentError(str("write '", path_, "' at byte ", at_, ": ", errno_text(errno)));
      from += written;
      at_ += written;
      bytes -= static_cast<size_t>(written);
      if (at_ - begun_ < kBeginBytes) continue;
      begin_disk();
      drop_from_page_cache();
    }
  }
  void sync() override {
    if (sync_fd(fd_) != 0) fail("sync", path_, errno);
  }

 private:
  static constexpr int64_t kBeginBytes = 8 << 20;
  // How much of a large file stays in the page cache for a later restart: its first part, and its
  // last part, which the disk is still writing.
  static constexpr int64_t kKeptBytes = 128 << 20, kLastBytes = 64 << 20;

  // Starts writing to disk, so little is left for sync(). ext4 allocates blocks only now. If there
  // are none, it drops the pages and reports it here; a later sync() would succeed. If the call is
  // missing, or the kernel has no memory for it now, sync() writes everything.
  void begin_disk() {
    if (sync_range(begun_, at_, SYNC_FILE_RANGE_WRITE) != 0 && errno != ENOMEM) {
      const bool unknown =
          errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == EOPNOTSUPP;
      if (!unknown) fail_sync(at_, errno);
      can_drop_ = false;
    }
    begun_ = at_;
  }
  // A state of many gigabytes would evict what others read, such as training data, from the page
  // cache. On a virtual machine, each new page may also have to come from the host, which takes
  // longer than writing to disk.
  void drop_from_page_cache() {
    const int64_t end = (at_ - kLastBytes) / kBeginBytes *
                        kBeginBytes;  // a boundary of large pages: straddled ones stay cached
    if (!can_drop_ || end <= dropped_) return;
    // Only pages on disk can be dropped. An error here counts: the kernel reports it once, so
    // sync() would not see it.
    constexpr unsigned kOnDisk =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_range(dropped_, end, kOnDisk) != 0) fail_sync(end, errno);
    ::posix_fadvise(fd_, dropped_, end - dropped_, POSIX_FADV_DONTNEED);
    dropped_ = end;
  }
  // Repeated when a signal interrupts it.
  int sync_range(int64_t begin, int64_t end, unsigned flags) const {
    int result;
    do result = ::sync_file_range(fd_, begin, end - begin, flags);
    while (result != 0 && errno == EINTR);
    return result;
  }
  [[noreturn]] void fail_sync(int64_t end, int error) const {
    throw EnvironmentError(str("sync '", path_, "' up to byte ", end, ": ", errno_text(error)));
  }

  std::string path_;
  int fd_;
  int64_t at_ = 0;
  int64_t begun_ = 0;             // end of what the disk was asked to write
  int64_t dropped_ = kKeptBytes;  // the page cache holds nothing between kKeptBytes and here
  bool can_drop_;  // false if sync_file_range() is missing, forbidden or without effect
};

class PosixFileSystem final : public FileSystem {
 public:
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return std::make_unique<PosixFile>(path);
  }
  void make_directories(const std::string& path) override {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::is_directory(path, error)) return;
    const fs::path parent = fs::path(path).parent_path();
    if (!parent.empty() && parent != path) make_directories(parent);
    if (!fs::create_directory(path, error)) {
      if (error || !fs::is_directory(path, error))
        fail("make folder", path, error ? error.value() : ENOTDIR);
      return;  // another rank made it first
    }
    sync_directory(parent.empty()
                       ? "."
                       : parent.string());  // or a power cut would lose the folder and all in it
  }
  void make_directory(const std::string& path) override {
    if (::mkdir(path.c_str(), 0777) != 0) fail("make folder", path, errno);
  }
  void sync_directory(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) fail("open folder", path, errno);
    const int error = sync_fd(fd) == 0 ? 0 : errno;
    ::close(fd);
    // Some network and user-space file systems report that they cannot sync a folder; their renames
    // are durable anyway.
    if (error != 0 && !lacks_operation(error)) fail("sync folder", path, error);
  }
  void rename_directory(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return;
    if (errno != EEXIST && errno != ENOTEMPTY) fail_rename(from, to, errno);
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
    if (!lacks_operation(errno)) fail_rename(from, to, errno);
    exchange_in_three(from, to);
  }
  void remove_all(const std::string& path) override {
    remove_files(path);
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) fail("remove", path, error.value());
  }
  std::vector<std::string> list(const std::string& path) override {
    std::error_code error;
    std::vector<std::string> names;
    std::filesystem::directory_iterator it(path, error);
    for (; !error && it != std::filesystem::directory_iterator(); it.increment(error))
      names.push_back(it->path().filename());
    if (error && error != std::errc::no_such_file_or_directory)
      fail("list folder", path, error.value());
    std::sort(names.begin(), names.end());
    return names;
  }
  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    return open_file(path, Links::refuse);
  }
  std::optional<int64_t> free_bytes(const std::string& path) override {
    struct statvfs info {};
    if (::statvfs(path.c_str(), &info) != 0) {
      if (lacks_operation(errno)) return std::nullopt;
      fail("ask for the free space of", path, errno);
    }
    return free_bytes_of(info);
  }

 private:
  // Removes the files of a folder with two threads, because freeing gigabytes of page cache keeps a
  // core busy. If a removal fails here, remove_all() reports it.
  static void remove_files(const std::string& folder) {
    std::error_code error;
    if (!std::filesystem::is_directory(std::filesystem::symlink_status(folder, error))) return;
    std::vector<std::string> paths;
    for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
         it.increment(error))
      if (it->is_regular_file(error) && !it->is_symlink(error)) paths.push_back(it->path());
    std::atomic<size_t> next = 0;
    const auto remove = [&] {
      for (size_t i; (i = next++) < paths.size();) ::unlink(paths[i].c_str());
    };
    std::thread other;
    try {
      if (paths.size() > 1) other = std::thread(remove);
    } catch (const std::system_error&) {  // no thread to be had: this one removes all files
    }
    remove();
    if (other.joinable()) other.join();
  }
  // For file systems that cannot exchange names: for a moment `to` does not exist.
  static void exchange_in_three(const std::string& from, const std::string& to) {
    const std::string aside = from + ".aside";
    if (::rename(to.c_str(), aside.c_str()) != 0) fail_rename(to, aside, errno);
    if (::rename(from.c_str(), to.c_str()) != 0) {
      const int error = errno;
      ::rename(aside.c_str(), to.c_str());
      fail_rename(from, to, error);
    }
    if (::rename(aside.c_str(), from.c_str()) != 0) fail_rename(aside, from, errno);
  }
};

}  // namespace

std::optional<int64_t> free_bytes_of(const struct statvfs& info) {
  // A file system that does not count blocks reports none at all; a full one has blocks, none free.
  const uint64_t block = info.f_frsize > 0 ? info.f_frsize : info.f_bsize;
  if (info.f_blocks == 0 || block == 0) return std::nullopt;
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  return static_cast<int64_t>(info.f_bavail > kMost / block ? kMost : info.f_bavail * block);
}

FileSystem& posix_file_system() {
  static PosixFileSystem files;
  return files;
}

void rename_to_new(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  if (!lacks_operation(errno)) fail_rename(from, to, errno);
  if (::link(from.c_str(), to.c_str()) == 0) {
    ::unlink(from.c_str());
    return;
  }
  // Some file systems have no hard links, and no folder can have one (EPERM): check, then rename.
  if (!lacks_operation(errno) && errno != EPERM) fail_rename(from, to, errno);
  if (::faccessat(AT_FDCWD, to.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    fail_rename(from, to, EEXIST);
  if (::rename(from.c_str(), to.c_str()) != 0) fail_rename(from, to, errno);
}

void write_whole_file(const std::string& path,
                      const std::function<void(const std::string& aside)>& write, bool replaces) {
  std::random_device random;
  // Not derived from the file's own name, which might become too long.
  const std::string folder = path.substr(0, path.find_last_of('/') + 1);
  const std::string aside = str(folder, ".tmp-", random(), "-", random());
  try {
    write(aside);
    if (!replaces)
      rename_to_new(aside, path);
    else if (::rename(aside.c_str(), path.c_str()) != 0)
      fail("write", path, errno);
  } catch (...) {
    ::unlink(aside.c_str());
    throw;
  }
  posix_file_system().sync_directory(folder.empty() ? "." : folder);
}

void write_whole_file(const std::string& path, const std::string& text, bool replaces) {
  const auto write = [&](const std::string& aside) {
    const auto file = posix_file_system().create(aside);
    file->write(text.data(), text.size());
    file->sync();
  };
  write_whole_file(path, write, replaces);
}

}  // namespace lockstep::checkpoint
