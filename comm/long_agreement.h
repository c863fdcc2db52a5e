// comm::agree() for work that may take longer than a collective may wait: writing gigabytes, or
// reading them.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::comm {

// Runs `local` on a thread of its own on every rank, with signs of life between the ranks
// meanwhile, and ends as comm::agree() does. Once it has failed on some rank, `stop` becomes true
// on the others: their work should then return early, whatever it returns. Null: a single rank.
std::vector<std::string> agree_on_long_work(
    ProcessGroup* group, const std::function<std::string(const std::atomic<bool>& stop)>& local);

}  // namespace lockstep::comm
