// How messages list ranks, and what several ranks say.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace lockstep::comm {

// Of ascending ranks: "rank 3", "ranks 1, 2 and 5", "ranks 0, 2 to 5 and 9".
std::string ranks_text(std::span<const int> ranks);

// What ranks have said.
struct Saying {
  std::vector<int> ranks;  // ascending
  std::string text;
};

// Each text once, with all ranks that said it, in the order in which the texts first come.
// `sayings` by ascending rank.
std::vector<Saying> merge_equal(const std::vector<Saying>& sayings);
// That as one line: "ranks 0, 1 and 3: …; rank 2: …", or "all 5 ranks: …" where each of the `size`
// ranks said the same.
std::string sayings_text(const std::vector<Saying>& sayings, int size);

}  // namespace lockstep::comm
