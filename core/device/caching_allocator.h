// CachingAllocator: the Allocator of every device, over a source of memory. It keeps free blocks
// for the next request of their size, counts by category, and holds to a limit.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/mutex.h"
#include "core/device/allocator.h"
#include "core/device/queue.h"

namespace lockstep {

// Where an allocator gets its blocks. Called with the allocator's lock held.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // "cpu", "cuda:0": in front of messages.
  virtual std::string name() const = 0;
  // The size of the block for a request. Equal requests get equal capacities.
  virtual size_t capacity_for(size_t bytes) const = 0;
  // Null if there is no memory left.
  virtual void* take(size_t capacity) = 0;
  virtual void give_back(void* block, size_t capacity) noexcept = 0;
  // The queue in whose order a block taken now is used, freed and used again.
  virtual Queue queue() const = 0;
  // `block` is free once the work on `queue` is done. A simulated device overwrites it then.
  virtual void freed(void* block, size_t capacity, const Queue& queue) noexcept;
  // What a user can do if there is no memory left: ends the message.
  virtual std::string advice() const = 0;
};

// Thread-safe.
class CachingAllocator final : public Allocator {
 public:
  // `source` must outlive the allocator.
  explicit CachingAllocator(MemorySource& source) : source_(source) {}

  void* allocate(size_t bytes, MemoryCategory category) override;
  void deallocate(void* pointer, size_t bytes, MemoryCategory category) noexcept override;
  void used_on(void* pointer, const Queue& queue) override;
  MemoryStats stats() const override;
  void reset_peak() override;
  void release_cached() override;
  void count_external(int64_t bytes, MemoryCategory category) override;
  void set_limit(int64_t bytes) override;
  // Whether free blocks of the queue stay here when memory is short or release_cached() is called:
  // recorded work uses them again.
  void keep_blocks_of(const Queue& queue, bool keep);

 private:
  // A block that is not free.
  struct Block {
    Queue home;
    std::vector<Queue> others;  // queues that used it, too
  };
  // A freed block that other queues may still use.
  struct Pending {
    void* block;
    size_t capacity;
    Queue home;
    std::vector<Event> uses;
  };
  // The free blocks of one capacity that one queue may use at once. Holding the queue keeps its
  // handle from being given to another one.
  struct Pool {
    Queue queue;
    std::vector<void*> blocks;
  };
  using Key = std::pair<void*, size_t>;  // the queue's handle, capacity

  void* take_cached(const Queue& queue, size_t capacity) LOCKSTEP_REQUIRES(mutex_);
  void* take_new(size_t capacity) LOCKSTEP_REQUIRES(mutex_);
  void keep(void* block, size_t capacity, const Queue& home) LOCKSTEP_REQUIRES(mutex_);
  // Moves blocks that nobody uses any more to the free ones. `wait`: waits for all.
  void settle(bool wait) LOCKSTEP_REQUIRES(mutex_);
  void drop_cached() LOCKSTEP_REQUIRES(mutex_);
  void account(int64_t bytes, MemoryCategory category) LOCKSTEP_REQUIRES(mutex_);
  void trace_use() LOCKSTEP_REQUIRES(mutex_);
  bool exceeds_limit(size_t more) const LOCKSTEP_REQUIRES(mutex_);
  std::string no_memory(size_t bytes, MemoryCategory category) const LOCKSTEP_REQUIRES(mutex_);

  MemorySource& source_;
  mutable Mutex mutex_;
  std::map<Key, Pool> free_ LOCKSTEP_GUARDED_BY(mutex_);
  std::set<void*> kept_ LOCKSTEP_GUARDED_BY(mutex_);  // handles of queues (keep_blocks_of)
  // Blocks in use whose queue matters: all of a device, none of a CPU until used_on().
  std::unordered_map<void*, Block> blocks_ LOCKSTEP_GUARDED_BY(mutex_);
  std::vector<Pending> pending_ LOCKSTEP_GUARDED_BY(mutex_);
  MemoryStats stats_ LOCKSTEP_GUARDED_BY(mutex_);
  // Used bytes when the timeline was last told.
  int64_t traced_bytes_ LOCKSTEP_GUARDED_BY(mutex_) = 0;
};

// Steps of an eighth of a power of two, so that similar requests share blocks: at most 1/8 is
// wasted, beside what rounding to `alignment` or `page` adds.
// Multiples of `alignment`, and of `page` from `large` on.
size_t stepped_capacity(size_t bytes, size_t alignment, size_t large, size_t page);

}  // namespace lockstep
