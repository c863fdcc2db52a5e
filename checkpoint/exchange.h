// Texts and agreement among the ranks of a group that may be absent.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::checkpoint {

// Every rank's text, in rank order. Collective; null: a single rank.
std::vector<std::string> exchange_texts(comm::ProcessGroup* group, const std::string& text);

// Runs `local` on every rank, then lets all ranks know how it went: returns what each gave. Where it threw on any rank, every rank
// throws: UsageError if all failures were that, else EnvironmentError, with the message of each failed rank. Collective.
std::vector<std::string> agree(comm::ProcessGroup* group, const std::function<std::string()>& local);

}  // namespace lockstep::checkpoint
