// comm::agree() for work that may take longer than the time limit of a collective, such as reading
// or writing gigabytes.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::comm {

// Runs `local` on every rank, in a thread of its own, while the ranks exchange signs of life. Ends
// like comm::agree(). After a failure on one rank, `stop` becomes true on the others; their work
// should then return early, with any result. Null: a single rank.
std::vector<std::string> agree_on_long_work(
    ProcessGroup* group, const std::function<std::string(const std::atomic<bool>& stop)>& local);

}  // namespace lockstep::comm
