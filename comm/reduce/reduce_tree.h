// ReduceTree: the fixed order in which gradients are summed, so that the bits do not depend on how
// many ranks there are.
//
// A step has V leaves (micro-batches), and the order is the fixed tree over them (base/sum_tree.h).
// Ranks hold contiguous blocks of leaves, and each block is a whole node, so that a rank can sum
// its own block first. What remains between ranks is the top of the same tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::comm {

class ReduceTree {
 public:
  // The blocks for `leaves` leaves on `ranks` ranks, 1 <= ranks <= leaves: the split that keeps the
  // largest block smallest.
  ReduceTree(int64_t leaves, int ranks);
  // One leaf a rank.
  explicit ReduceTree(int ranks) : ReduceTree(ranks, ranks) {}

  int ranks() const { return static_cast<int>(begin_.size()) - 1; }
  int64_t leaves() const { return begin_.back(); }
  // Rank r computes leaves [begin(r), begin(r + 1)).
  int64_t begin(int rank) const { return begin_[static_cast<size_t>(rank)]; }

  // The sums between ranks, in order: value[left] += value[right], for the values indexed by rank.
  // The last leaves the total in value[0].
  struct Step {
    int left, right;
  };
  const std::vector<Step>& steps() const { return steps_; }
  // Equal trees give equal bits; part of a collective's fingerprint.
  uint64_t digest() const;

 private:
  void assign(int64_t first, int64_t count, int ranks);

  std::vector<int64_t> begin_;
  std::vector<Step> steps_;
};

}  // namespace lockstep::comm
