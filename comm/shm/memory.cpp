#include "comm/shm/memory.h"

#include <cerrno>
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
  if (data == MAP_FAILED) throw EnvironmentError(str("cannot map ", bytes, " bytes of shared memory: ", errno_text(errno)));
  return static_cast<std::byte*>(data);
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
  return *this;
}

void Memory::close_fd() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Memory Memory::create(size_t bytes) {
  Memory memory;
  memory.fd_ = ::memfd_create("lockstep", MFD_CLOEXEC);
  if (memory.fd_ < 0) throw EnvironmentError(str("cannot create shared memory: ", errno_text(errno)));
  if (::ftruncate(memory.fd_, static_cast<off_t>(bytes)) != 0)
    throw EnvironmentError(str("cannot size shared memory to ", bytes, " bytes: ", errno_text(errno)));
  memory.data_ = map(memory.fd_, bytes, 0);
  memory.bytes_ = bytes;
  return memory;
}

Memory Memory::open(int pid, int fd, size_t bytes, bool whole) {
  const std::string path = str("/proc/", pid, "/fd/", fd);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) {
    const int error = errno;
    // Where /proc hides the processes of other users they seem to be gone, too, but are not to be signalled.
    if (error == ENOENT && (::kill(pid, 0) == 0 || errno == ESRCH))
      throw FromPeer<EnvironmentError>(str("process ", pid, " has ended, or has given up its shared memory"));
    throw EnvironmentError(str("cannot open the shared memory of process ", pid, " through ", path, ": ", errno_text(error),
                               "; the ranks of a host must run as one user and see each other's processes"));
  }
  Memory memory;
  memory.fd_ = file;
  struct stat status {};
  if (::fstat(file, &status) != 0 || static_cast<size_t>(status.st_size) != bytes)
    throw EnvironmentError(str(path, " is not the shared memory that process ", pid, " announced"));
  memory.data_ = map(file, bytes, whole ? MAP_POPULATE : 0);
  memory.bytes_ = bytes;
  memory.close_fd();
  return memory;
}

}  // namespace lockstep::comm::shm
