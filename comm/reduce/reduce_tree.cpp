#include "comm/reduce/reduce_tree.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/base/error.h"
#include "core/base/sum_tree.h"

namespace lockstep::comm {
namespace {

// Finds the best way to cut a node into whole nodes, one for each rank. A tree has few distinct
// node sizes (powers of two and one remainder), so caching makes this fast. More ranks never make
// the largest block larger. So the best cut lies where the block sizes of the two children cross,
// and a bisection finds it.
class Cuts {
 public:
  // Returns how many of `ranks` (>= 2) go to the left child to make the largest block smallest. Of
  // several equally good numbers, it returns the lowest.
  int left_ranks(int64_t leaves, int ranks) { return best(leaves, ranks).left_ranks; }

 private:
  struct Cut {
    int64_t largest_block;
    int left_ranks;
  };

  Cut best(int64_t leaves, int ranks) {
    if (ranks == 1) return {leaves, 0};
    const auto key = std::pair(leaves, ranks);
    if (const auto known = known_.find(key); known != known_.end()) return known->second;
    const int64_t left = sum_tree::split(leaves), right = leaves - left;
    const auto fewest = static_cast<int>(std::max<int64_t>(1, ranks - right)),
               most = static_cast<int>(std::min<int64_t>(left, ranks - 1));
    const auto left_block = [&](int on_left) { return best(left, on_left).largest_block; };
    const auto right_block = [&](int on_left) {
      return best(right, ranks - on_left).largest_block;
    };
    // From here on the right child has the larger block; before, the left one has it. There may be
    // no such point.
    const int crossing = first_of(
        fewest, most + 1, [&](int on_left) { return left_block(on_left) <= right_block(on_left); });
    Cut cut{leaves + 1, 0};
    if (crossing <= most) cut = {right_block(crossing), crossing};
    if (crossing > fewest && left_block(crossing - 1) <= cut.largest_block) {
      const int64_t block = left_block(crossing - 1);
      cut = {block,
             first_of(fewest, crossing, [&](int on_left) { return left_block(on_left) <= block; })};
    }
    return known_[key] = cut;
  }

  // Returns the first i in [begin, end) where `holds` turns from false to true, or `end`.
  template <typename F>
  static int first_of(int begin, int end, F holds) {
    while (begin < end) {
      const int middle = begin + (end - begin) / 2;
      if (holds(middle))
        end = middle;
      else
        begin = middle + 1;
    }
    return begin;
  }

  std::map<std::pair<int64_t, int>, Cut> known_;
};

void cut_node(Cuts& cuts, int64_t first, int64_t leaves, int ranks, std::vector<int64_t>& begin,
              std::vector<ReduceTree::Step>& steps) {
  if (ranks == 1) {
    begin.push_back(first);
    return;
  }
  const int64_t left = sum_tree::split(leaves);
  const int left_ranks = cuts.left_ranks(leaves, ranks);
  const int left_rank = static_cast<int>(begin.size());
  cut_node(cuts, first, left, left_ranks, begin, steps);
  const int right_rank = static_cast<int>(begin.size());
  cut_node(cuts, first + left, leaves - left, ranks - left_ranks, begin, steps);
  steps.push_back({left_rank, right_rank});
}

}  // namespace

ReduceTree::ReduceTree(int64_t leaves, int ranks) {
  check(ranks >= 1 && leaves >= ranks, "[reduce_tree] needs at least one leaf for each rank, got ",
        leaves, " leaves for ", ranks, " ranks; use fewer ranks or more micro-batches");
  assign(0, leaves, ranks);
  begin_.push_back(leaves);
}

void ReduceTree::assign(int64_t first, int64_t count, int ranks) {
  Cuts cuts;
  cut_node(cuts, first, count, ranks, begin_, steps_);
}

uint64_t ReduceTree::digest() const {
  uint64_t hash = 0x9e3779b97f4a7c15u;
  for (const int64_t begin : begin_) {
    hash = (hash ^ static_cast<uint64_t>(begin)) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace lockstep::comm
