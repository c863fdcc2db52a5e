#include "comm/nccl/sim/segment.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/mutex.h"

namespace lockstep::comm::nccl::sim {
namespace {

constexpr const char* kForm = "simulated NCCL %d: pid %d fd %d";

// The files that carry the names of this process's segments, by the segments' numbers: the number
// of a file that was closed is given to others.
struct Names {
  Mutex mutex;
  int segments LOCKSTEP_GUARDED_BY(mutex) = 0;
  std::map<int, int> files LOCKSTEP_GUARDED_BY(mutex);
};
Names& names() {
  static Names& all = *new Names;
  return all;
}

}  // namespace

int make_file(const char* name, size_t bytes) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return -1;
  if (::ftruncate(fd, static_cast<off_t>(bytes)) == 0) return fd;
  ::close(fd);
  return -1;
}

int open_file(int pid, int fd) {
  return ::open(str("/proc/", pid, "/fd/", fd).c_str(), O_RDWR | O_CLOEXEC);
}

uint64_t inode_of(int fd) {
  struct stat found {};
  return ::fstat(fd, &found) == 0 ? found.st_ino : 0;
}

// Fresh memory is zero, which is what a Shared is at first, but for the numbers of files, which
// nobody reads before they are set.
UniqueId make_segment() {
  const int fd = make_file("simulated NCCL", sizeof(Shared));
  if (fd < 0) throw EnvironmentError(str("no shared memory: ", std::strerror(errno)));
  const MutexLock lock(names().mutex);
  const int number = ++names().segments;
  names().files[number] = fd;
  UniqueId id;
  std::snprintf(id.bytes.data(), id.bytes.size(), kForm, number, static_cast<int>(::getpid()), fd);
  return id;
}

Segment::Segment(const UniqueId& id) {
  int number = 0, pid = 0, made = -1;
  if (std::sscanf(id.bytes.data(), kForm, &number, &pid, &made) != 3)
    throw EnvironmentError("the unique id is not one of this library");
  const int fd = open_file(pid, made);
  if (fd < 0) throw EnvironmentError("the process that made the unique id has gone");
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory == MAP_FAILED) throw EnvironmentError(str("no memory: ", std::strerror(errno)));
  shared_ = std::launder(static_cast<Shared*>(memory));
  if (pid == ::getpid()) number_ = number;
}

Segment::~Segment() { ::munmap(shared_, sizeof(Shared)); }

void Segment::forget_name() {
  if (number_ == 0) return;
  const MutexLock lock(names().mutex);
  // Another rank of this process may have been first.
  const auto name = names().files.find(std::exchange(number_, 0));
  if (name == names().files.end()) return;
  ::close(name->second);
  names().files.erase(name);
}

}  // namespace lockstep::comm::nccl::sim
