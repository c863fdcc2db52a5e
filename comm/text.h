// Strings between ranks: names, paths, descriptions. For set-up and reports; everything goes through ordinary collectives.
#pragma once

#include <string>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::comm {

// Every rank's text, in rank order, on every rank.
std::vector<std::string> all_gather_text(ProcessGroup& group, const std::string& text);
// The root's text on every rank; what the others pass does not matter.
std::string broadcast_text(ProcessGroup& group, const std::string& text, int root);

}  // namespace lockstep::comm
