#include "fsdp/event_log.h"

#include <utility>

namespace lockstep::fsdp {

void EventLog::add(const Event& event, uint64_t pass, bool grads) {
  if (event.kind == Event::before_backward) visited_.insert(event.use->pass);
  if (event.in_backward) {
    pass = 0;
    grads = true;
  } else {
    if (std::exchange(pass_, pass) != pass) grads_ = grads;
    grads = grads_;
  }
  if (!grads && first_ && open_ == 0) return;  // an evaluation; there may be many
  open_ += grads;
  entries_.push_back({event, pass, grads});
}

void EventLog::end_micro_batch() {
  last_ = take_micro_batch();
  first_ = false;
}

void EventLog::abandon_micro_batch() { take_micro_batch(); }

void EventLog::end_step() {
  entries_.clear();
  open_ = 0;
  first_ = true;
}

std::vector<Event> EventLog::take_micro_batch() {
  std::vector<Event> taken;
  std::vector<Entry> kept;
  bool begun = !first_;
  for (Entry& entry : entries_) {
    const bool visited = visited_.count(entry.pass) > 0;
    begun = begun || visited;
    if (visited || (!entry.grads && begun))
      taken.push_back(std::move(entry.event));
    else if (entry.grads)
      kept.push_back(std::move(entry));
  }
  entries_ = std::move(kept);
  open_ = entries_.size();
  visited_ = {0};
  return taken;
}

}  // namespace lockstep::fsdp
