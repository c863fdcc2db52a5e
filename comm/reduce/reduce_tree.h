// ReduceTree: the fixed order in which gradients are summed. It makes the bits independent of the
// number of ranks.
//
// A step has V leaves (micro-batches), summed by the fixed tree over them (base/sum_tree.h). Ranks
// hold contiguous blocks of leaves. Each block is a whole node, so a rank can sum its own block
// first. The sums between ranks are the top of the same tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::comm {

class ReduceTree {
 public:
  // Divides `leaves` leaves among `ranks` ranks (1 <= ranks <= leaves) so that the largest block is
  // as small as possible.
  ReduceTree(int64_t leaves, int ranks);
  // One leaf for each rank.
  explicit ReduceTree(int ranks) : ReduceTree(ranks, ranks) {}

  int ranks() const { return static_cast<int>(begin_.size()) - 1; }
  int64_t leaves() const { return begin_.back(); }
  // Rank r computes leaves [begin(r), begin(r + 1)).
  int64_t begin(int rank) const { return begin_[static_cast<size_t>(rank)]; }

  // The sums between ranks, in order: value[left] += value[right], where values are indexed by
  // rank. The last step leaves the total in value[0].
  struct Step {
    int left, right;
  };
  const std::vector<Step>& steps() const { return steps_; }
  // Equal trees give equal bits. The digest is a part of a collective's fingerprint.
  uint64_t digest() const;

 private:
  void assign(int64_t first, int64_t count, int ranks);

  std::vector<int64_t> begin_;
  std::vector<Step> steps_;
};

}  // namespace lockstep::comm
