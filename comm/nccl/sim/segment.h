// What the ranks of a simulated communicator share, threads and processes alike: a piece of memory
// that the unique id names. It lies in a memfd of the process that made the id and is opened
// through /proc, so it has no name that could be left behind.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "comm/nccl/api.h"

namespace lockstep::comm::nccl::sim {

inline constexpr int kMostRanks = 64;
// So many messages of a channel may be under way.
inline constexpr int kRing = 8;

// Bytes of a memfd of the sender's process.
struct Message {
  int32_t pid = 0, fd = -1;
  uint64_t inode = 0;  // of that file: its number may have been given to another one
  uint64_t begin = 0, bytes = 0;
  uint64_t signature = 0;  // of what the sender's operation is; the receiver's is the same
};

// From one rank to another.
struct Channel {
  std::atomic<uint64_t> posted{0}, taken{0};  // messages so far
  std::array<Message, kRing> ring;            // message k is in place k % kRing
};

struct Shared {
  std::array<std::atomic<uint32_t>, kMostRanks> joined;
  std::array<std::array<Channel, kMostRanks>, kMostRanks> channels;  // by sender, receiver
};

// Makes the memory and names it. Throws EnvironmentError if the system has none.
UniqueId make_segment();

class Segment {
 public:
  // Throws EnvironmentError if the process that made the id has gone.
  explicit Segment(const UniqueId& id);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  std::atomic<uint32_t>& joined(int rank) { return shared_->joined[static_cast<size_t>(rank)]; }
  Channel& channel(int from, int to) {
    return shared_->channels[static_cast<size_t>(from)][static_cast<size_t>(to)];
  }
  // All have opened it: nobody needs the name any more. Not thread-safe.
  void forget_name();

 private:
  Shared* shared_ = nullptr;
  int number_ = 0;  // in the process that made the id, until the name is forgotten
};

// A memfd with room for `bytes`, or -1.
int make_file(const char* name, size_t bytes);
uint64_t inode_of(int fd);
// Another handle of a process's file, or -1 if it has gone.
int open_file(int pid, int fd);

}  // namespace lockstep::comm::nccl::sim
