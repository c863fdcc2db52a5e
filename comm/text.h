// Strings between ranks: names, paths, descriptions. For set-up and reports; everything goes
// through ordinary collectives of group.host().
//
// What ranks mostly say alike costs a hash where they do: 16 bytes, whatever the text and the
// number of ranks. The texts themselves travel where they differ.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::comm {

// Every rank's text, in rank order, on every rank.
std::vector<std::string> all_gather_text(ProcessGroup& group, const std::string& text);
// The root's text on every rank; what the others pass does not matter.
std::string broadcast_text(ProcessGroup& group, const std::string& text, int root);

// Whether all ranks pass the same text; the same answer on all.
bool is_same_text(ProcessGroup& group, std::string_view text);

// Runs `local` on every rank, then lets all ranks know how it went: returns what each gave, in rank
// order. Where it threw on any rank, every rank throws, so that none is left waiting for one that
// gave up: UsageError if all failures were that, else EnvironmentError, with the message of each
// failed rank, equal ones once (comm/ranks_text.h); on ranks where `local` went well, of the kind
// that comes from a peer (comm/peer_failure.h). Null: a single rank.
std::vector<std::string> agree(ProcessGroup* group, const std::function<std::string()>& local);

// Compares a description, one thing a line, over all ranks. Where they differ every rank throws
// UsageError: "`problem`: rank 0 has '…' where rank 2 has '…'; `advice`", with the first rank and
// the first line that differ. Each rank then receives rank 0's text and the other one, not
// everybody's.
void check_same_lines(ProcessGroup& group, const std::string& text, std::string_view problem,
                      std::string_view advice);

}  // namespace lockstep::comm
