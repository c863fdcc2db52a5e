// SumSlots: where the terms of one sum wait for each other, so that they may come in any order and
// are added in that of the fixed tree (base/sum_tree.h).
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <vector>

namespace lockstep {

// A term completes a node of the tree with those that came before it. The sum of that node waits in
// a slot, a buffer of the caller's, until the rest of a larger node comes. The last term completes
// the sum. Terms that come in order use the fewest slots: sum_tree::level_count(terms). Not
// thread-safe.
class SumSlots {
 public:
  // How many terms, where only the last one will tell. Then they come in order, and the last one,
  // i, is one of i + 1.
  static constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
  static constexpr int kTotal = -1;

  struct Place {
    int slot = kTotal;            // where the term is written; kTotal: it completes the sum
    std::vector<int> slots = {};  // what is added to it there, in this order: they are free then
    int64_t first = 0;            // of the node that it completes
    int level = 0;                // 2^level terms, or as many as there are
  };
  // Whether term i has come.
  bool has(int64_t i) const;
  // The first one that has not.
  int64_t next() const;
  // Where term i of `terms` belongs, if it comes next. Throws UsageError where it has come.
  Place place(int64_t i, int64_t terms) const;
  // It has come, and was added up.
  void take(const Place& place);
  // A new sum begins.
  void clear() { filled_.clear(); }

 private:
  struct Node {
    int level;
    int slot;
  };
  const Node* complete(int64_t first, int level) const;

  std::map<int64_t, Node> filled_;  // by first term: disjoint nodes, the largest that are complete
};

}  // namespace lockstep
