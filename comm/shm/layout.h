// The layout of a group's shared memory. All ranks run the same program, so plain structs are the
// format.
#pragma once

#include <cstddef>
#include <cstdint>

#include <sched.h>

#include "comm/engine/fingerprint.h"
#include "comm/shm/word.h"

namespace lockstep::comm::shm {

// How many buffers of a rank are used in turn. With one core for each rank there are many, so the
// reader's cache has dropped most of a slot before it is written again. On shared cores there are
// few, so that all slots stay in the caches.
constexpr uint32_t kSlots = 8;
constexpr uint32_t kSlotsOnSharedCores = 6;
// The step counter starts shortly before its lower half wraps around, so every test covers the
// wrap-around.
constexpr uint64_t kFirstStep = (uint64_t{1} << 32) - 20;
// Largest number of bytes of a rank's part in one step.
constexpr size_t kChunkBytes = 256 << 10;
// How many steps a rank stages before it consumes one, and consumes before it collects one. On
// shared cores each wait switches processes, so waits should be few. A slot with sums is written
// again only after all ranks have staged that step. By then they have collected the step that is 2
// * kAhead + 1 steps older.
constexpr uint32_t kAhead = 2;
static_assert(2 * kAhead < kSlotsOnSharedCores && kSlotsOnSharedCores <= kSlots);
// Up to this size every rank of an all_reduce sums everything. That is more work but saves a second
// meeting of the ranks.
constexpr int64_t kSinglePassBytes = 16 << 10;
// For point-to-point messages between each ordered pair of ranks.
constexpr uint32_t kMessageSlots = 2;
constexpr size_t kMessageBytes = 64 << 10;

// The location of a tensor that a rank allocated in shared memory; id 0: not in shared memory.
struct Location {
  uint32_t id = 0;
  int32_t fd = -1;
  uint64_t bytes = 0;  // size of the whole allocation
  uint64_t offset = 0;
  uint64_t inode = 0;
};

// What a rank announces when it arrives in a call.
struct Notice {
  Fingerprint call;
  Location in;
  uint32_t retired = 0;  // number of shared tensors that it has freed
};

enum class Presence : uint32_t { absent, here, left };

// The state of one rank. Only that rank writes it, with the exceptions below.
struct Member {
  Word staged{static_cast<uint32_t>(kFirstStep)};  // steps for which it has staged its data
  // Steps in which it has read (and, in reductions, summed) its part.
  Word read{static_cast<uint32_t>(kFirstStep)};
  Notice notices[2];  // of the current and of the previous call
  std::atomic<Presence> presence{Presence::absent};
  int32_t pid = 0;
  char host[64] = {};
  cpu_set_t cores = {};  // the cores that it may run on
  // Whether another rank has reported this rank as stopped. The other ranks set it, and this rank
  // clears it at its next call of any kind. So each stop is reported once, whichever calls wait for
  // it. A second stop within the same call is not reported.
  std::atomic<bool> said_stopped{false};
  // How often this rank was reported as holding up others. The other ranks write it, too.
  std::atomic<uint32_t> said_missing{0};
  Word joined;  // 1 once the rank has joined
  // The call that this rank has been waiting in for long, in any group of its process; empty: none.
  // The version is odd while the text is being written.
  std::atomic<uint32_t> waits_version{0};
  char waits_in[256] = {};
};

// The messages from one rank to another.
struct Channel {
  Word posted;   // written by the sender: messages announced
  Word ready;    // written by the receiver: messages expected
  Word filled;   // written by the sender: pieces, over all messages
  Word drained;  // written by the receiver
  Fingerprint sends[2], recvs[2];
};

struct Control {
  uint64_t cookie = 0;
  std::atomic<int> joined{0};         // number of ranks that have joined
  std::atomic<int> formed{0};         // number of ranks that no longer need the store
  std::atomic<uint32_t> aborting{0};  // taken by the rank that writes `reason`
  std::atomic<uint32_t> aborted{0};
  char reason[4096] = {};
};

// Offsets for a group of `size` ranks.
class Layout {
 public:
  explicit Layout(int size) : size_(static_cast<size_t>(size)) {}
  size_t member(int rank) const {
    return align(sizeof(Control)) + align(sizeof(Member)) * at(rank);
  }
  size_t channel(int from, int to) const {
    return member(int(size_)) + align(sizeof(Channel)) * (at(from) * size_ + at(to));
  }
  size_t message(int from, int to, uint32_t slot) const {
    return channel(int(size_), 0) +
           kMessageBytes * ((at(from) * size_ + at(to)) * kMessageSlots + slot);
  }
  // The data that a rank offers, and the sums that it has computed.
  size_t stage(int rank, uint32_t slot) const {
    return message(int(size_), 0, 0) + kChunkBytes * (at(rank) * kSlots + slot);
  }
  size_t result(int rank, uint32_t slot) const {
    return stage(int(size_), 0) + kChunkBytes * (at(rank) * kSlots + slot);
  }
  size_t bytes() const { return result(int(size_), 0); }

 private:
  static constexpr size_t align(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }
  static size_t at(int rank) { return static_cast<size_t>(rank); }
  size_t size_;
};

}  // namespace lockstep::comm::shm
