#include "comm/ranks_text.h"

#include <unordered_map>

#include "core/base/error.h"

namespace lockstep::comm {

std::string ranks_text(std::span<const int> ranks) {
  // Merge three or more neighbours into one item, so a thousand ranks still fit into a message.
  std::vector<std::string> items;
  for (size_t first = 0, last = 0; first < ranks.size(); first = ++last) {
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (last == first + 1) last = first;
    items.push_back(last == first ? str(ranks[first]) : str(ranks[first], " to ", ranks[last]));
  }
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < items.size(); ++i)
    text += str(i == 0 ? "" : i + 1 == items.size() ? " and " : ", ", items[i]);
  return text;
}

std::vector<Saying> merge_equal(const std::vector<Saying>& sayings) {
  std::vector<Saying> merged;
  std::unordered_map<std::string, size_t> places;
  for (const Saying& saying : sayings) {
    const auto [at, is_new] = places.try_emplace(saying.text, merged.size());
    if (is_new)
      merged.push_back(saying);
    else
      merged[at->second].ranks.insert(merged[at->second].ranks.end(), saying.ranks.begin(),
                                      saying.ranks.end());
  }
  return merged;
}

std::string sayings_text(const std::vector<Saying>& sayings, int size) {
  std::string text;
  for (const auto& [ranks, said] : merge_equal(sayings)) {
    const bool all = size > 1 && ranks.size() == static_cast<size_t>(size);
    text += str(text.empty() ? "" : "; ", all ? str("all ", size, " ranks") : ranks_text(ranks),
                ": ", said);
  }
  return text;
}

}  // namespace lockstep::comm
