// How far the clocks of a group's ranks are apart.
#pragma once

#include <cstdint>

#include "comm/process_group.h"

namespace lockstep::train {

struct ClockShift {
  int64_t shift_ns = 0;   // adds to this rank's Clock, for rank 0's
  int64_t within_ns = 0;  // the shift is that exact: half of the shortest round trip
};

// Collective, through the host group. Each rank in turn asks rank 0 for its time, several times,
// and believes the shortest round trip. A shift that is smaller than its error counts as 0, so
// ranks of one host have one clock.
ClockShift measure_clock(comm::ProcessGroup& group);

// From one round trip: asked, answered with `theirs`, received.
ClockShift shift_of(int64_t asked_ns, int64_t theirs_ns, int64_t received_ns);

}  // namespace lockstep::train
