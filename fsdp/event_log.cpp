#include "fsdp/event_log.h"

#include <utility>

namespace lockstep::fsdp {

void EventLog::add(const Event& event, uint64_t pass) {
  if (event.kind == Event::before_backward) visited_.insert(event.use->pass);
  entries_.push_back({event, event.in_backward ? 0 : pass});
}

void EventLog::end_micro_batch() { last_ = take_micro_batch(); }
void EventLog::abandon_micro_batch() { take_micro_batch(); }

std::vector<Event> EventLog::take_micro_batch() {
  std::vector<Event> taken;
  std::vector<Entry> kept;
  for (Entry& entry : entries_) {
    if (visited_.count(entry.pass) > 0)
      taken.push_back(std::move(entry.event));
    else
      kept.push_back(std::move(entry));
  }
  entries_ = std::move(kept);
  visited_ = {0};
  return taken;
}

}  // namespace lockstep::fsdp
