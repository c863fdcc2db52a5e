#include "core/device/caching_allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

#include "core/base/error.h"
#include "core/trace/trace.h"

namespace lockstep {
namespace {

constexpr trace::Kind kTake{"allocator", "take from the system", {{{"bytes"}}}};
constexpr trace::Kind kUse{
    "allocator", "memory", {{{"used"}, {"reserved"}}}, trace::EventType::counter};
// A change counts from this part of the peak on.
constexpr int64_t kTracedShare = 50;

}  // namespace

void MemorySource::freed(void*, size_t, const Queue&) noexcept {}

size_t stepped_capacity(size_t bytes, size_t alignment, size_t large, size_t page) {
  const auto round_up = [](size_t n, size_t to) { return (n + to - 1) / to * to; };
  if (bytes <= 8 * alignment) return round_up(std::max<size_t>(bytes, 1), alignment);
  const size_t rounded = round_up(bytes, std::bit_floor(bytes - 1) / 8);
  return round_up(rounded, rounded >= large ? page : alignment);
}

void* CachingAllocator::allocate(size_t bytes, MemoryCategory category) {
  const size_t capacity = source_.capacity_for(bytes);
  const Queue queue = source_.queue();
  const MutexLock lock(mutex_);
  if (!pending_.empty()) settle(false);
  void* block = take_cached(queue, capacity);
  if (!block) block = take_new(capacity);
  if (!block) {
    settle(true);
    block = take_cached(queue, capacity);
  }
  if (!block) {
    drop_cached();
    block = take_new(capacity);
  }
  if (!block) throw EnvironmentError(no_memory(bytes, category));
  if (queue.native()) {
    try {
      blocks_.emplace(block, Block{queue, {}});
    } catch (...) {
      keep(block, capacity, queue);
      throw;
    }
  }
  account(static_cast<int64_t>(bytes), category);
  return block;
}

void CachingAllocator::deallocate(void* pointer, size_t bytes, MemoryCategory category) noexcept {
  const size_t capacity = source_.capacity_for(bytes);
  const MutexLock lock(mutex_);
  account(-static_cast<int64_t>(bytes), category);
  const auto found = blocks_.find(pointer);
  if (found == blocks_.end()) {
    static const Queue cpu{kCpu};
    return keep(pointer, capacity, cpu);
  }
  const Block block = std::move(found->second);
  blocks_.erase(found);
  if (block.others.empty()) return keep(pointer, capacity, block.home);
  try {
    Pending pending{pointer, capacity, block.home, {}};
    for (const Queue& queue : block.others) pending.uses.push_back(Event::record(queue));
    pending_.push_back(std::move(pending));
  } catch (const std::exception&) {
    // Either the device has failed, or memory is too short to record the block. Never reuse it.
  }
}

void CachingAllocator::used_on(void* pointer, const Queue& queue) {
  if (!queue.native()) return;
  const MutexLock lock(mutex_);
  Block& block = blocks_.try_emplace(pointer, Block{Queue(kCpu), {}}).first->second;
  if (queue == block.home) return;
  if (std::find(block.others.begin(), block.others.end(), queue) == block.others.end())
    block.others.push_back(queue);
}

MemoryStats CachingAllocator::stats() const {
  const MutexLock lock(mutex_);
  return stats_;
}

void CachingAllocator::reset_peak() {
  const MutexLock lock(mutex_);
  stats_.peak_bytes = stats_.used_bytes;
  stats_.total_peak_bytes = stats_.total_used_bytes;
}

void CachingAllocator::release_cached() {
  const MutexLock lock(mutex_);
  settle(false);
  drop_cached();
}

void CachingAllocator::count_external(int64_t bytes, MemoryCategory category) {
  const MutexLock lock(mutex_);
  if (category == MemoryCategory::offloaded) return account(bytes, category);
  if (bytes > 0 && exceeds_limit(static_cast<size_t>(bytes))) {
    settle(true);
    drop_cached();
    if (exceeds_limit(static_cast<size_t>(bytes)))
      throw EnvironmentError(no_memory(static_cast<size_t>(bytes), category));
  }
  stats_.external_bytes += bytes;
  account(bytes, category);
}

void CachingAllocator::set_limit(int64_t bytes) {
  const MutexLock lock(mutex_);
  stats_.limit_bytes = bytes;
}

// Takes the block that was freed last, because it is most likely still in CPU caches.
void* CachingAllocator::take_cached(const Queue& queue, size_t capacity) {
  const auto found = free_.find({queue.native(), capacity});
  if (found == free_.end() || found->second.blocks.empty()) return nullptr;
  void* block = found->second.blocks.back();
  found->second.blocks.pop_back();
  return block;
}

void* CachingAllocator::take_new(size_t capacity) {
  if (exceeds_limit(capacity)) return nullptr;
  const trace::Span span(kTake,
                         [&] { return trace::About{.values = {static_cast<int64_t>(capacity)}}; });
  void* block = source_.take(capacity);
  if (block) stats_.reserved_bytes += static_cast<int64_t>(capacity);
  return block;
}

void CachingAllocator::keep(void* block, size_t capacity, const Queue& home) {
  source_.freed(block, capacity, home);
  try {
    free_.try_emplace({home.native(), capacity}, Pool{home, {}})
        .first->second.blocks.push_back(block);
  } catch (const std::bad_alloc&) {  // no memory to record it: free the block itself
    source_.give_back(block, capacity);
    stats_.reserved_bytes -= static_cast<int64_t>(capacity);
  }
}

void CachingAllocator::settle(bool wait) {
  const auto is_done = [wait](const Event& use) {
    if (wait) use.synchronize();
    return use.done();
  };
  // A query may throw, so all come before anything moves: no block may be kept twice or lost.
  std::vector<bool> done;
  done.reserve(pending_.size());
  for (const Pending& pending : pending_)
    done.push_back(std::all_of(pending.uses.begin(), pending.uses.end(), is_done));
  size_t left = 0;
  for (size_t i = 0; i < done.size(); ++i) {
    if (done[i])
      keep(pending_[i].block, pending_[i].capacity, pending_[i].home);
    else if (left++ != i)
      pending_[left - 1] = std::move(pending_[i]);
  }
  pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(left), pending_.end());
}

void CachingAllocator::drop_cached() {
  const auto goes = [&](const auto& entry)
                        LOCKSTEP_REQUIRES(mutex_) { return !kept_.contains(entry.first.first); };
  // The source may hand the blocks to other queues.
  for (const auto& entry : free_)
    if (goes(entry) && !entry.second.blocks.empty()) entry.second.queue.synchronize();
  for (auto& entry : free_) {
    if (!goes(entry)) continue;
    for (void* block : entry.second.blocks) {
      source_.give_back(block, entry.first.second);
      stats_.reserved_bytes -= static_cast<int64_t>(entry.first.second);
    }
  }
  std::erase_if(free_, goes);
}

void CachingAllocator::keep_blocks_of(const Queue& queue, bool keep) {
  const MutexLock lock(mutex_);
  if (keep)
    kept_.insert(queue.native());
  else
    kept_.erase(queue.native());
}

void CachingAllocator::account(int64_t bytes, MemoryCategory category) {
  const auto c = static_cast<size_t>(category);
  stats_.used_bytes[c] += bytes;
  stats_.peak_bytes[c] = std::max(stats_.peak_bytes[c], stats_.used_bytes[c]);
  if (category == MemoryCategory::offloaded) return;
  stats_.total_used_bytes += bytes;
  stats_.total_peak_bytes = std::max(stats_.total_peak_bytes, stats_.total_used_bytes);
  if (trace::on()) [[unlikely]]
    trace_use();
}

// Only changes that would be seen in a timeline.
void CachingAllocator::trace_use() {
  const int64_t change = std::abs(stats_.total_used_bytes - traced_bytes_);
  if (change * kTracedShare < stats_.total_peak_bytes) return;
  traced_bytes_ = stats_.total_used_bytes;
  trace::mark(kUse, {.values = {stats_.total_used_bytes, stats_.reserved_bytes},
                     .name = trace::intern(source_.name())});
}

bool CachingAllocator::exceeds_limit(size_t more) const {
  return stats_.limit_bytes > 0 &&
         stats_.reserved_bytes + stats_.external_bytes + static_cast<int64_t>(more) >
             stats_.limit_bytes;
}

std::string CachingAllocator::no_memory(size_t bytes, MemoryCategory category) const {
  std::string used;
  for (size_t c = 0; c < kMemoryCategories; ++c)
    if (stats_.used_bytes[c] > 0)
      used += str(used.empty() ? "" : ", ", name_of(static_cast<MemoryCategory>(c)), " ",
                  stats_.used_bytes[c]);
  const std::string limit =
      stats_.limit_bytes > 0 ? str(" of a limit of ", stats_.limit_bytes) : "";
  if (!used.empty()) used = str(" (", used, ")");
  return str("[", source_.name(), "] out of memory: ", bytes, " bytes more for ", name_of(category),
             "; tensors use ", stats_.total_used_bytes, " bytes", limit, used, ". ",
             source_.advice());
}

}  // namespace lockstep
