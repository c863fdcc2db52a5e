// EventLog: what one micro-batch makes the ranks do together, so that a rank without input can do
// the same.
//
// A micro-batch consists of the forward passes that its backward comes to, of what happens in
// backward, and of passes in between that no backward can come to any more: those without gradients
// (a teacher's), and those of which no graph is left. Such passes before the step's first one are
// evaluations, which a rank without input runs as well, unless begin_micro_batch() said otherwise.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "fsdp/schedule.h"

namespace lockstep::fsdp {

struct Event {
  enum Kind : uint8_t {
    before_forward,
    after_forward,
    read,
    before_backward,
    gradients_complete
  } kind;
  Unit* unit;
  bool in_backward;
  bool recorded = false;                // after_forward: backward will come
  std::shared_ptr<const Use> use = {};  // before_backward
};

class EventLog {
 public:
  // `pass`: the forward pass in which the event happened (Schedule::pass()), unless in backward;
  // `grads`: whether gradients were enabled then; `use`: what after_forward recorded.
  void add(const Event& event, uint64_t pass, bool grads, const std::shared_ptr<const Use>& use);
  // The next micro-batch begins with that pass, whether or not backward will come to it.
  void begin_micro_batch(uint64_t pass) { begun_ = pass; }
  // The micro-batch is done: keeps its events for last().
  void end_micro_batch();
  // It ended in an exception: forgets its events.
  void abandon_micro_batch();
  // Forgets passes that backward never came to.
  void end_step();

  // Whether a forward pass was recorded that backward has not come to.
  bool has_open_passes() const { return open_ > 0; }
  // Of the last micro-batch that was done; empty before the first.
  const std::vector<Event>& last() const { return last_; }

 private:
  struct Entry {
    Event event;
    uint64_t pass;                 // 0: in backward
    bool grads;                    // whether the pass began with gradients enabled
    std::weak_ptr<const Use> use;  // gone with the graph
  };
  uint64_t first_pass() const;
  std::vector<Event> take_micro_batch();

  std::vector<Entry> entries_;
  size_t open_ = 0;                   // entries of passes with gradients, and of backward
  uint64_t pass_ = 0;                 // the last one that began,
  bool grads_ = false;                // and how
  bool first_ = true;                 // of the step: no micro-batch is done
  std::optional<uint64_t> begun_;     // what begin_micro_batch() said
  std::set<uint64_t> visited_ = {0};  // passes
  std::vector<Event> last_;
};

}  // namespace lockstep::fsdp
