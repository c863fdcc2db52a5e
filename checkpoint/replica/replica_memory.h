// The memory of one rank's replicas: a file in memory, so that somebody else than the rank can keep
// it, and the process that takes the rank's place finds what was left there. docs/checkpoint.md,
// "Replicas in memory", has its layout.
//
// Whoever wrote it may have been killed at any instruction. So a copy counts once it is sealed, and
// its seal is broken before a byte of it changes; a seal is a hash over what the copy says of
// itself and over its chunks' sums. Nothing that is found is trusted: sizes are compared with the
// file's, a copy's with what the reader expects, and its bytes with the sums.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/replica/replica_copy.h"

namespace lockstep::checkpoint {

// What a copy says of itself.
struct CopyLabel {
  int64_t owner = 0;  // the rank whose part it is, of `ranks`
  int64_t ranks = 0;
  int64_t step = 0;
  int64_t bytes = 0;
  uint64_t layout = 0;  // CopyLayout::digest
};

// Used by one thread at a time. Counted as MemoryCategory::buffers.
class ReplicaMemory {
 public:
  static constexpr int kMostCopies = 4;

  // `file`: a path to a file in memory (memfd_create) that somebody keeps open, /proc/PID/fd/N;
  // empty: one of its own. Throws EnvironmentError where it cannot be opened, is no file in memory,
  // or another process uses it.
  explicit ReplicaMemory(std::string file = {});
  ~ReplicaMemory();
  ReplicaMemory(const ReplicaMemory&) = delete;
  ReplicaMemory& operator=(const ReplicaMemory&) = delete;

  // How many copies there are places for; 0: none yet.
  int copies() const { return copies_; }
  // Places for so many copies of up to `capacity` bytes, and memory for `bytes` in each, which is
  // taken at once. Where the places are there already, what they hold stays; otherwise it is gone.
  // Throws EnvironmentError where there is no memory.
  void reserve(int copies, int64_t capacity, int64_t bytes);

  // Of a sealed copy. Its sums are the ones that were sealed; whether its bytes are,
  // StateCopy::first_damaged_chunk() says.
  std::optional<CopyLabel> label(int copy) const;
  // A view of a copy's memory, of whatever it holds; `bytes` are those of its label, or at most
  // those that were reserved.
  StateCopy view(int copy, int64_t bytes) const;
  // Before the first byte changes.
  void break_seal(int copy);
  // After the last byte and sum were written.
  void seal(int copy, const CopyLabel& label);

 private:
  struct Mapping {
    Mapping(char* at, size_t size) : data(at), bytes(size) {}
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    char* const data;
    const size_t bytes;
  };

  void adopt();
  void map(int64_t bytes);
  char* begin_of(int copy) const;

  std::string name_;  // for messages
  int fd_ = -1;
  std::shared_ptr<Mapping> mapping_;  // of the whole file
  int copies_ = 0;
  int64_t capacity_ = 0;
  std::array<std::shared_ptr<Storage>, kMostCopies>
      memory_;  // of each copy: its sums and as many bytes as it has memory for
};

}  // namespace lockstep::checkpoint
