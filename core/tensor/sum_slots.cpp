#include "core/tensor/sum_slots.h"

#include <algorithm>
#include <iterator>

#include "core/base/error.h"

namespace lockstep {
namespace {

int64_t terms_at(int level) { return int64_t{1} << level; }

}  // namespace

const SumSlots::Node* SumSlots::complete(int64_t first, int level) const {
  const auto at = filled_.find(first);
  return at != filled_.end() && at->second.level == level ? &at->second : nullptr;
}

bool SumSlots::has(int64_t i) const {
  const auto after = filled_.upper_bound(i);
  if (after == filled_.begin()) return false;
  const auto& [first, node] = *std::prev(after);
  return i < first + terms_at(node.level);
}

int64_t SumSlots::next() const {
  int64_t next = 0;
  for (const auto& [first, node] : filled_) {
    if (first > next) break;
    next = first + terms_at(node.level);
  }
  return next;
}

SumSlots::Place SumSlots::place(int64_t i, int64_t terms) const {
  check(i >= 0 && i < terms, "[sum] there is no term ", i, " of ", terms);
  check(!has(i), "[sum] term ", i, " of ", terms, " was added before");
  Place place{.first = i};
  // Climb the tree while the sibling node is complete. A node without a sibling counts as its own
  // parent.
  while (terms_at(place.level) < terms) {
    const int64_t other = place.first ^ terms_at(place.level);
    if (other < terms) {
      const Node* node = complete(other, place.level);
      if (!node) break;
      place.slots.push_back(node->slot);
    }
    place.first &= ~terms_at(place.level++);
  }
  if (terms_at(place.level) >= terms) return place;
  const auto is_taken = [&](int slot) {
    return std::any_of(filled_.begin(), filled_.end(),
                       [&](const auto& node) { return node.second.slot == slot; });
  };
  for (place.slot = 0; is_taken(place.slot);) ++place.slot;
  return place;
}

void SumSlots::take(const Place& place) {
  std::erase_if(filled_, [&](const auto& node) {
    return std::find(place.slots.begin(), place.slots.end(), node.second.slot) != place.slots.end();
  });
  if (place.slot == kTotal)
    clear();
  else
    filled_[place.first] = {place.level, place.slot};
}

}  // namespace lockstep
