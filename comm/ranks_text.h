// How error messages list ranks.
#pragma once

#include <span>
#include <string>

namespace lockstep::comm {

// "rank 3", "ranks 1, 2 and 5".
std::string ranks_text(std::span<const int> ranks);

}  // namespace lockstep::comm
