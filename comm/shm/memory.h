// Anonymous shared memory that another process maps through /proc/PID/fd/FD. It has no name, so
// nothing can be left behind.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/error.h"

namespace lockstep::comm::shm {

// A mapping and, in its creator, the file descriptor through which other processes map it. Can be
// moved, not copied.
class Memory {
 public:
  Memory() = default;
  ~Memory();
  Memory(Memory&& other) noexcept { *this = static_cast<Memory&&>(other); }
  Memory& operator=(Memory&& other) noexcept;

  // Creates zeroed memory. `bytes` are only reserved; pages take memory when they are
  // touched.
  static Memory create(size_t bytes);
  // Maps memory that process `pid` created. `whole`: maps all pages at once, for memory that is
  // used completely. `inode`: identifies the memory, in case `fd` is another file by now (0:
  // unknown). Throws EnvironmentError with the reason.
  static Memory open(int pid, int fd, size_t bytes, uint64_t inode, bool whole);

  // Makes the memory private to this process, at the same address and with the same contents.
  // Writes of others to their mappings have no effect here any more, and their reads are undefined.
  // Only the creator calls this. Throws EnvironmentError if there is no memory for the copy; then a
  // part may still be shared.
  void make_private();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  int fd() const { return fd_; }
  uint64_t inode() const { return inode_; }
  // Closes the descriptor. After that no other process can map the memory.
  void close_fd();

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  int fd_ = -1;
  uint64_t inode_ = 0;
};

}  // namespace lockstep::comm::shm
