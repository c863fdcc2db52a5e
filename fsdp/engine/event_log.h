// EventLog: what the ranks do together in a micro-batch, recorded so that a rank without input can
// repeat it.
//
// A micro-batch consists of the forward passes that its backward visits, of everything in backward,
// and of passes in between that no backward can visit any more: those without gradients (such as a
// teacher's) and those without a live graph. Such passes before the step's first micro-batch are
// evaluations, unless begin_micro_batch() was called. A rank without input runs evaluations itself.
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
  bool recorded = false;                // after_forward: whether backward will come
  std::shared_ptr<const Use> use = {};  // for before_backward
};

class EventLog {
 public:
  // `pass`: the forward pass of the event (Schedule::pass()), unless it is in backward. `grads`:
  // whether gradients were enabled. `use`: what after_forward recorded.
  void add(const Event& event, uint64_t pass, bool grads, const std::shared_ptr<const Use>& use);
  // The next micro-batch begins with this pass, even if backward does not visit it.
  void begin_micro_batch(uint64_t pass) { begun_ = pass; }
  // The micro-batch is done: keeps its events for last().
  void end_micro_batch();
  // The micro-batch ended in an exception: forgets its events.
  void abandon_micro_batch();
  // Forgets passes that backward never visited.
  void end_step();

  // Whether a forward pass was recorded that backward has not visited.
  bool has_open_passes() const { return open_ > 0; }
  // The events of the last finished micro-batch; empty before the first one.
  const std::vector<Event>& last() const { return last_; }

 private:
  struct Entry {
    Event event;
    uint64_t pass;                 // 0: in backward
    bool grads;                    // whether the pass began with gradients enabled
    std::weak_ptr<const Use> use;  // expires with the graph
  };
  uint64_t first_pass() const;
  std::vector<Event> take_micro_batch();

  std::vector<Entry> entries_;
  size_t open_ = 0;                   // number of entries of passes with gradients, and of backward
  uint64_t pass_ = 0;                 // the last pass that began,
  bool grads_ = false;                // and whether it had gradients
  bool first_ = true;                 // no micro-batch of the step is finished yet
  std::optional<uint64_t> begun_;     // set by begin_micro_batch()
  std::set<uint64_t> visited_ = {0};  // passes that backward visited
  std::vector<Event> last_;
};

}  // namespace lockstep::fsdp
