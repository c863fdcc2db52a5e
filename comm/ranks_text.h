// How messages list ranks, and what several ranks report.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace lockstep::comm {

// Formats ascending ranks: "rank 3", "ranks 1, 2 and 5", "ranks 0, 2 to 5 and 9".
std::string ranks_text(std::span<const int> ranks);

// A text and the ranks that reported it.
struct Saying {
  std::vector<int> ranks;  // ascending
  std::string text;
};

// Returns each text once, with all its ranks, in the order of first appearance. `sayings` must be
// sorted by rank.
std::vector<Saying> merge_equal(const std::vector<Saying>& sayings);
// Formats these as one line: "ranks 0, 1 and 3: …; rank 2: …", or "all 5 ranks: …" if each of the
// `size` ranks reported the same.
std::string sayings_text(const std::vector<Saying>& sayings, int size);

}  // namespace lockstep::comm
