#include "comm/shm/arena.h"

namespace lockstep::comm::shm {

std::shared_ptr<Storage> Arena::allocate(size_t bytes) {
  if (bytes == 0) return std::make_shared<Storage>(0, kCpu);
  Memory memory = Memory::create(bytes);
  std::byte* const data = memory.data();
  {
    const MutexLock lock(mutex_);
    blocks_.emplace(data, Block{++last_id_, std::move(memory)});
  }
  return std::make_shared<Storage>(data, bytes, kCpu, [arena = shared_from_this(), data] {
    const MutexLock lock(arena->mutex_);
    arena->blocks_.erase(data);
    ++arena->retired_;
  });
}

Location Arena::find(const void* data, size_t bytes) const {
  const auto* first = static_cast<const std::byte*>(data);
  const MutexLock lock(mutex_);
  auto block = blocks_.upper_bound(first);
  if (block == blocks_.begin()) return {};
  --block;
  const auto offset = static_cast<size_t>(first - block->first);
  const auto& [id, memory] = block->second;
  if (offset + bytes > memory.bytes()) return {};
  return {.id = id,
          .fd = memory.fd(),
          .bytes = memory.bytes(),
          .offset = offset,
          .inode = memory.inode()};
}

void Arena::withdraw(const void* data) {
  const MutexLock lock(mutex_);
  const auto block = blocks_.upper_bound(static_cast<const std::byte*>(data));
  if (block != blocks_.begin()) std::prev(block)->second.memory.make_private();
}

uint32_t Arena::retired() const {
  const MutexLock lock(mutex_);
  return retired_;
}

std::byte* PeerMaps::resolve(int rank, int pid, uint32_t retired, const Location& location) {
  Peer& peer = peers_[static_cast<size_t>(rank)];
  if (peer.retired != retired) peer.maps.clear();
  peer.retired = retired;
  auto map = peer.maps.find(location.id);
  if (map == peer.maps.end())
    map = peer.maps
              .emplace(location.id,
                       Memory::open(pid, location.fd, location.bytes, location.inode, true))
              .first;
  return map->second.data() + location.offset;
}

}  // namespace lockstep::comm::shm
