// Arena: tensors in shared memory that the other ranks of a group read and write in place.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "comm/shm/layout.h"
#include "comm/shm/memory.h"
#include "core/base/mutex.h"
#include "core/tensor/storage.h"

namespace lockstep::comm::shm {

// The allocations of this rank. Thread-safe.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // Returns zeroed memory. The storage keeps the arena alive and may outlive the group.
  std::shared_ptr<Storage> allocate(size_t bytes);
  // Returns where [data, data + bytes) is; the id is 0 if it is not in this arena.
  Location find(const void* data, size_t bytes) const;
  // Makes the allocation that holds `data` private to this process (Memory::make_private).
  void withdraw(const void* data);
  // The number of freed storages. When it changes, peers must discard their mappings.
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

// The allocations of the other ranks, mapped on first use. Not thread-safe: only the lane of
// collectives uses it.
class PeerMaps {
 public:
  explicit PeerMaps(int size) : peers_(static_cast<size_t>(size)) {}
  // Returns the local address of `location` in the memory of `rank` (process `pid`). First drops
  // the mappings that the peer has retired.
  std::byte* resolve(int rank, int pid, uint32_t retired, const Location& location);

 private:
  struct Peer {
    uint32_t retired = 0;
    std::map<uint32_t, Memory> maps;  // by id
  };
  std::vector<Peer> peers_;
};

}  // namespace lockstep::comm::shm
