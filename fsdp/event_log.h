// EventLog: what one micro-batch makes the ranks do together, so that a rank without input can do the
// same.
//
// Between two steps a rank may run other forward passes as well (an evaluation with gradients on). Only
// the passes that backward comes to belong to the micro-batch.
#pragma once

#include <memory>
#include <set>
#include <vector>

#include "fsdp/schedule.h"

namespace lockstep::fsdp {

struct Event {
  enum Kind : uint8_t { before_forward, after_forward, read, before_backward, gradients_complete } kind;
  Unit* unit;
  bool in_backward;
  bool recorded = false;                // after_forward: backward will come
  std::shared_ptr<const Use> use = {};  // before_backward
};

class EventLog {
 public:
  // `pass`: the forward pass in which the event happened (Schedule::pass()), unless in backward.
  void add(const Event& event, uint64_t pass);
  // The micro-batch is done: keeps its events for last().
  void end_micro_batch();
  // It ended in an exception: forgets its events.
  void abandon_micro_batch();
  // Forgets passes that backward never came to.
  void end_step() { entries_.clear(); }

  // Whether a forward pass was recorded that backward has not come to.
  bool has_open_passes() const { return !entries_.empty(); }
  // Of the last micro-batch that was done; empty before the first.
  const std::vector<Event>& last() const { return last_; }

 private:
  struct Entry {
    Event event;
    uint64_t pass;
  };
  std::vector<Event> take_micro_batch();

  std::vector<Entry> entries_;
  std::set<uint64_t> visited_ = {0};  // passes
  std::vector<Event> last_;
};

}  // namespace lockstep::fsdp
