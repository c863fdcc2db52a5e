// Strings between ranks: names, paths, descriptions. For setup and reports. Everything goes through
// ordinary collectives of group.host().
//
// Texts that are usually equal cost only the comparison of a hash: 16 bytes, for any text and any
// number of ranks. The texts themselves are sent only if they differ.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::comm {

// Returns the texts of all ranks, in rank order, on every rank.
std::vector<std::string> all_gather_text(ProcessGroup& group, const std::string& text);
// Returns the root's text on every rank. The texts of other ranks are ignored.
std::string broadcast_text(ProcessGroup& group, const std::string& text, int root);

// Whether all ranks pass the same text. Returns the same answer on all ranks.
bool is_same_text(ProcessGroup& group, std::string_view text);

// Runs `local` on every rank and then shares the outcomes. Returns the results in rank order. If
// `local` threw on any rank, every rank throws, so no rank waits for one that gave up. The error is
// a UsageError if all failures were UsageErrors, else an EnvironmentError. It has the message of
// each failed rank, equal ones once (comm/ranks_text.h). On ranks where `local` succeeded, the
// error counts as caused by a peer (comm/peer_failure.h). Null: a single rank.
std::vector<std::string> agree(ProcessGroup* group, const std::function<std::string()>& local);

// Compares a description of many lines over all ranks. If they differ, every rank throws
// UsageError: "`problem`: rank 0 has '…' where rank 2 has '…'; `advice`". It names the first rank
// and the first line that differ. Each rank receives only two texts: rank 0's and the different
// one.
void check_same_lines(ProcessGroup& group, const std::string& text, std::string_view problem,
                      std::string_view advice);

}  // namespace lockstep::comm
