// Lists of hosts as people and Slurm write them: "a,b", "node[01-04,7],login", "r[1-2]n[1-3]".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep::launcher {

// The hosts, in order. Numbers keep their leading zeros. Throws UsageError, with the place of the
// fault, for an empty name, brackets that do not match, ranges that run backwards, a host that
// comes twice, or more than 100,000 hosts.
std::vector<std::string> expand_hosts(std::string_view text);

}  // namespace lockstep::launcher
