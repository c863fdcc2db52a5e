// Anonymous shared memory that another process maps through /proc/PID/fd/FD. It has no name, so
// nothing can be left behind.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/error.h"

namespace lockstep::comm::shm {

// A mapping, and in its creator the file descriptor through which others get at it. Moves, does not
// copy.
class Memory {
 public:
  Memory() = default;
  ~Memory();
  Memory(Memory&& other) noexcept { *this = static_cast<Memory&&>(other); }
  Memory& operator=(Memory&& other) noexcept;

  // Zeroed memory that this process creates. `bytes` are only reserved; pages cost memory when they
  // are touched.
  static Memory create(size_t bytes);
  // Maps what process `pid` created; `whole`: all pages at once, for what is used in full. `inode`:
  // of the memory that is meant, in case `fd` is another file by now; 0: unknown. Throws
  // EnvironmentError that says why not.
  static Memory open(int pid, int fd, size_t bytes, uint64_t inode, bool whole);

  // From here on the memory is this process's alone, at the same address and with the same
  // contents: what others do with their mappings changes nothing here, and what they read there is
  // undefined. For the creator. Throws EnvironmentError where the system has no memory for it; then
  // a part may still be shared.
  void make_private();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  int fd() const { return fd_; }
  uint64_t inode() const { return inode_; }
  // No other process can map it from here on.
  void close_fd();

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  int fd_ = -1;
  uint64_t inode_ = 0;
};

}  // namespace lockstep::comm::shm
