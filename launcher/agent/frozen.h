// Finds ranks of this host that stand still: stopped (SIGSTOP, Ctrl-Z), held by a debugger, frozen
// by their control group, or waiting for the kernel. Other hosts cannot tell them from slow ranks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "launcher/agent/standstill.h"
#include "launcher/base/launch_spec.h"
#include "launcher/process/rank_process.h"

namespace lockstep::launcher {

struct FrozenRank {
  int rank = 0;
  size_t local = 0;
  pid_t pid = 0;
  Duration since{};  // when it was first seen standing still
  ProcessLook look = {};
};

// Used by one thread. Times are monotonic.
class FrozenRanks {
 public:
  using Ranks = std::vector<std::unique_ptr<RankProcess>>;

  void begin(size_t ranks, Duration at);
  Duration next_check() const { return next_check_; }
  // Looks once a second and warns once about each standstill. It ends no rank.
  void check(const Ranks& ranks, Duration at);
  // Of the last look: the first rank that has been stopped, or frozen by its control group, for
  // longer than its limit. A limit of 0 is none.
  std::optional<FrozenRank> too_long(const Ranks& ranks, Duration at,
                                     const std::function<Duration(size_t local)>& limit) const;
  // Looks at once. Returns the rank that has stood still for longest.
  std::optional<FrozenRank> longest(const Ranks& ranks, Duration at);

 private:
  struct State {
    Duration since{};
    ProcessLook look = {};
    bool warned = false;
    bool counts(Duration at) const;
  };
  void look(const Ranks& ranks, Duration at);

  std::vector<State> states_;
  Duration next_check_{};
};

// The failure of a rank of this host for which the rank of `gave_up` waited in vain. Times count
// from `start`.
Failure failure_of_frozen(const FrozenRank& frozen, const Failure& gave_up, Duration start);

}  // namespace lockstep::launcher
