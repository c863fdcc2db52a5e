// The memory of one rank's replicas: a file in memory. Another process can keep it, and the rank's
// next process then finds the copies. docs/checkpoint.md, "Replicas in memory", describes its
// layout.
//
// The writer may have been killed at any instruction. So a copy counts only once it is sealed, and
// its seal is broken before any of its bytes change. A seal is a hash over the copy's label and its
// chunks' sums. Nothing found is trusted: sizes are compared with the file's size, a label with
// what the reader expects, and bytes with the sums.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/replica/replica_copy.h"

namespace lockstep::checkpoint {

// The label of a copy.
struct CopyLabel {
  int64_t owner = 0;  // the rank whose part it is, one of `ranks`
  int64_t ranks = 0;
  int64_t step = 0;
  int64_t bytes = 0;
  uint64_t layout = 0;  // CopyLayout::digest
};

// One thread at a time may use it. Counted as MemoryCategory::buffers.
class ReplicaMemory {
 public:
  static constexpr int kMostCopies = 4;

  // `file`: path of a file in memory (memfd_create) that another process keeps open,
  // /proc/PID/fd/N. Empty: a new one. Throws EnvironmentError if it cannot be opened, is not a file
  // in memory, or is used by another process.
  explicit ReplicaMemory(std::string file = {});
  ~ReplicaMemory();
  ReplicaMemory(const ReplicaMemory&) = delete;
  ReplicaMemory& operator=(const ReplicaMemory&) = delete;

  // The number of places for copies; 0 before reserve().
  int copies() const { return copies_; }
  // Makes `copies` places of up to `capacity` bytes, and takes memory for `bytes` in each at once.
  // If the same places exist already, their contents stay; otherwise they are lost. Throws
  // EnvironmentError if there is no memory.
  void reserve(int copies, int64_t capacity, int64_t bytes);

  // Returns the label of a sealed copy. Its sums are the sealed ones;
  // StateCopy::first_damaged_chunk() tells whether its bytes match them.
  std::optional<CopyLabel> label(int copy) const;
  // A view of a copy's memory with any contents. `bytes`: as in its label, or at most as many as
  // were reserved.
  StateCopy view(int copy, int64_t bytes) const;
  // Call before the first byte changes.
  void break_seal(int copy);
  // Call after the last byte and sum were written.
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
      memory_;  // for each copy, the sums and the reserved bytes
};

}  // namespace lockstep::checkpoint
