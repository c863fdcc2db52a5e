// Who has joined a job that still waits for nodes, and who is missing.
#pragma once

#include <string>
#include <vector>

#include "core/base/clock.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

// "2 of 4 joined: node 0 on a and node 2 on c; missing: nodes 1 and 3". Nodes that did not ask for
// a place have no number, and then nobody can say which are missing. Long lists are cut.
std::string roster_text(const std::vector<Node>& nodes, int expected);

// When to say it: 2 s after the start, then as soon as it changes, and every 10 s.
class Roster {
 public:
  void begin(Duration at);
  Duration next() const { return next_; }
  // What to say at this moment. Empty: nothing.
  std::string look(const std::vector<Node>& nodes, int expected, Duration at);

 private:
  Duration first_{}, next_{};
  std::string told_;
};

}  // namespace lockstep::launcher
