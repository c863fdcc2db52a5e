// Arena: tensors in shared memory, which the peers of a group read and write in place.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "comm/shm/layout.h"
#include "comm/shm/memory.h"
#include "core/base/mutex.h"
#include "core/tensor/storage.h"

namespace lockstep::comm::shm {

// What this rank has allocated. Thread-safe.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // Zeroed. The storage keeps the arena alive, and may outlive the group.
  std::shared_ptr<Storage> allocate(size_t bytes);
  // Where [data, data + bytes) lies; id 0 where it is not of this arena.
  Location find(const void* data, size_t bytes) const;
  // The allocation that holds `data` is this process's alone from here on (Memory::make_private).
  void withdraw(const void* data);
  // Counts freed storages: who has mapped one must look again.
  uint32_t retired() const;

 private:
  struct Block {
    uint32_t id;
    Memory memory;
  };
  mutable Mutex mutex_;
  std::map<const std::byte*, Block> blocks_ LOCKSTEP_GUARDED_BY(mutex_);  // by address
  uint32_t last_id_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
  uint32_t retired_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
};

// What the peers have allocated, mapped here when it is first needed. Not thread-safe: for the lane
// of collectives.
class PeerMaps {
 public:
  explicit PeerMaps(int size) : peers_(static_cast<size_t>(size)) {}
  // The address here of what `rank` (process `pid`) calls `location`. Maps that the peer has
  // retired are dropped first.
  std::byte* resolve(int rank, int pid, uint32_t retired, const Location& location);

 private:
  struct Peer {
    uint32_t retired = 0;
    std::map<uint32_t, Memory> maps;  // by id
  };
  std::vector<Peer> peers_;
};

}  // namespace lockstep::comm::shm
