#include "comm/shm/memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/peer_failure.h"

namespace lockstep::comm::shm {
namespace {

std::byte* map(int fd, size_t bytes, int flags) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
  if (data == MAP_FAILED)
    throw EnvironmentError(
        str("cannot map ", bytes, " bytes of shared memory: ", errno_text(errno)));
  return static_cast<std::byte*>(data);
}

// How much is copied at a time when memory becomes private. This limits the extra memory.
constexpr size_t kPrivatePiece = 64 << 20;

size_t whole_pages(size_t bytes) {
  static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

Memory::~Memory() {
  if (data_) ::munmap(data_, bytes_);
  close_fd();
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(fd_, other.fd_);
  std::swap(inode_, other.inode_);
  return *this;
}

void Memory::close_fd() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Memory Memory::create(size_t bytes) {
  Memory memory;
  memory.fd_ = ::memfd_create("lockstep", MFD_CLOEXEC);
  if (memory.fd_ < 0)
    throw EnvironmentError(str("cannot create shared memory: ", errno_text(errno)));
  if (::ftruncate(memory.fd_, static_cast<off_t>(bytes)) != 0)
    throw EnvironmentError(
        str("cannot size shared memory to ", bytes, " bytes: ", errno_text(errno)));
  struct stat status {};
  if (::fstat(memory.fd_, &status) != 0)
    throw EnvironmentError(str("cannot read the status of shared memory: ", errno_text(errno)));
  memory.inode_ = status.st_ino;
  memory.data_ = map(memory.fd_, bytes, 0);
  memory.bytes_ = bytes;
  return memory;
}

void Memory::make_private() {
  const size_t bytes = whole_pages(bytes_);
  for (size_t at = 0; at < bytes; at += kPrivatePiece) {
    const size_t piece = std::min(kPrivatePiece, bytes - at);
    void* copy = ::mmap(nullptr, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
      throw EnvironmentError(
          str("cannot copy ", piece, " bytes of shared memory: ", errno_text(errno)));
    std::memcpy(copy, data_ + at, piece);
    // Replaces the old pages in one step.
    if (::mremap(copy, piece, piece, MREMAP_MAYMOVE | MREMAP_FIXED, data_ + at) == MAP_FAILED) {
      const int error = errno;
      ::munmap(copy, piece);
      throw EnvironmentError(
          str("cannot replace ", piece, " bytes of shared memory: ", errno_text(error)));
    }
    // Nobody uses the old pages any more. If they cannot be freed here, they are freed with the
    // last mapping.
    if (fd_ >= 0)
      ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at),
                  static_cast<off_t>(piece));
  }
  close_fd();
}

Memory Memory::open(int pid, int fd, size_t bytes, uint64_t inode, bool whole) {
  const std::string path = str("/proc/", pid, "/fd/", fd);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) {
    const int error = errno;
    // If /proc hides processes of other users, such a process seems to be gone, too. But kill()
    // then fails with EPERM.
    if (error == ENOENT && (::kill(pid, 0) == 0 || errno == ESRCH))
      throw FromPeer<EnvironmentError>(
          str("process ", pid, " has ended, or has given up its shared memory"));
    throw EnvironmentError(
        str("cannot open the shared memory of process ", pid, " through ", path, ": ",
            errno_text(error),
            "; the ranks of a host must run as one user and see each other's processes"));
  }
  Memory memory;
  memory.fd_ = file;
  struct stat status {};
  if (::fstat(file, &status) != 0 || static_cast<size_t>(status.st_size) != bytes ||
      (inode != 0 && status.st_ino != inode))
    throw EnvironmentError(str(path, " is not the shared memory that process ", pid, " announced"));
  memory.data_ = map(file, bytes, whole ? MAP_POPULATE : 0);
  memory.bytes_ = bytes;
  memory.close_fd();
  return memory;
}

}  // namespace lockstep::comm::shm
