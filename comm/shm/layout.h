// What the shared memory of a group holds, and where. All ranks run the same program, so plain
// structs are the format.
#pragma once

#include <cstddef>
#include <cstdint>

#include <sched.h>

#include "comm/engine/fingerprint.h"
#include "comm/shm/word.h"

namespace lockstep::comm::shm {

// Buffers of a rank that are in use at once: with cores of their own so many that the reader's
// cache has lost most of a slot when it is written again; where ranks share cores so few that the
// slots of all stay in the caches.
constexpr uint32_t kSlots = 8;
constexpr uint32_t kSlotsOnSharedCores = 6;
// The steps' counter begins shortly before its lower half wraps around, so that every test runs
// over it.
constexpr uint64_t kFirstStep = (uint64_t{1} << 32) - 20;
// Bytes of a rank's part in one step, at most.
constexpr size_t kChunkBytes = 256 << 10;
// Steps that a rank stages before it consumes one, and consumes before it collects one: where ranks
// share cores each wait is a change of process, so there should be few. A slot with sums is written
// again once all have staged that step, and so have collected the one that is twice as many steps
// and one more behind it.
constexpr uint32_t kAhead = 2;
static_assert(2 * kAhead < kSlotsOnSharedCores && kSlotsOnSharedCores <= kSlots);
// Up to here every rank of an all_reduce sums all of it, which is more work, but saves the ranks a
// second meeting.
constexpr int64_t kSinglePassBytes = 16 << 10;
// Point to point: per ordered pair of ranks.
constexpr uint32_t kMessageSlots = 2;
constexpr size_t kMessageBytes = 64 << 10;

// Where a tensor lies that a rank allocated in shared memory; id 0: elsewhere.
struct Location {
  uint32_t id = 0;
  int32_t fd = -1;
  uint64_t bytes = 0;  // of the whole allocation
  uint64_t offset = 0;
  uint64_t inode = 0;
};

// What a rank announces when it arrives at a call.
struct Notice {
  Fingerprint call;
  Location in;
  uint32_t retired = 0;  // how many shared tensors it has freed so far
};

enum class Presence : uint32_t { absent, here, left };

// One rank's side. Only that rank writes it.
struct Member {
  Word staged{static_cast<uint32_t>(kFirstStep)};  // steps for which its data is there
  // Steps in which it has read (and, in reductions, summed) what it needs.
  Word read{static_cast<uint32_t>(kFirstStep)};
  Notice notices[2];  // of the current and the previous call
  std::atomic<Presence> presence{Presence::absent};
  int32_t pid = 0;
  char host[64] = {};
  cpu_set_t cores = {};  // that it may run on
  // Whether somebody has said that this rank is stopped. The only field that the others write; this
  // rank clears it at its next call, of whatever kind, so a stop is said once, however many wait
  // for it and in whichever calls; a second one within a call is not said.
  std::atomic<bool> said_stopped{false};
  // How often somebody has said that this rank holds up the others. Written by them, too.
  std::atomic<uint32_t> said_missing{0};
  Word joined;  // 1 once the rank is here
  // The call that this rank waits in for long, whichever group of its process that belongs to;
  // empty: none. The version is odd while the text is written.
  std::atomic<uint32_t> waits_version{0};
  char waits_in[256] = {};
};

// From one rank to another.
struct Channel {
  Word posted;   // by the sender: messages announced
  Word ready;    // by the receiver: messages expected
  Word filled;   // by the sender: pieces, over all messages
  Word drained;  // by the receiver
  Fingerprint sends[2], recvs[2];
};

struct Control {
  uint64_t cookie = 0;
  std::atomic<int> joined{0};         // how many ranks have come
  std::atomic<int> formed{0};         // how many need the store no more
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
  // The data that a rank offers, and the sums that it has made.
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
