#include "fsdp/engine/event_log.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace lockstep::fsdp {

void EventLog::add(const Event& event, uint64_t pass, bool grads,
                   const std::shared_ptr<const Use>& use) {
  if (event.kind == Event::before_backward) visited_.insert(event.use->pass);
  if (event.in_backward) {
    pass = 0;
    grads = true;
  } else {
    if (std::exchange(pass_, pass) != pass) grads_ = grads;
    grads = grads_;
  }
  if (!grads && first_ && open_ == 0 && !begun_) return;  // skip evaluations, as there may be many
  open_ += grads;
  entries_.push_back({event, pass, grads, use});
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
  begun_.reset();
}

// Returns the first pass of the first micro-batch: the one that was set, else the first that
// backward visited. If backward visited none (all outputs were detached, and parameters were read
// directly), it is the last pass that recorded gradients.
uint64_t EventLog::first_pass() const {
  if (!first_) return 0;
  if (begun_) return *begun_;
  if (visited_.size() > 1) return *std::next(visited_.begin());
  uint64_t latest = 0;
  for (const Entry& entry : entries_)
    if (entry.grads) latest = std::max(latest, entry.pass);
  return latest;
}

std::vector<Event> EventLog::take_micro_batch() {
  std::set<uint64_t> alive;
  for (const Entry& entry : entries_)
    if (!entry.use.expired()) alive.insert(entry.pass);
  const uint64_t begin = first_pass();
  std::vector<Event> taken;
  std::vector<Entry> kept;
  for (Entry& entry : entries_) {
    if (visited_.count(entry.pass) > 0)
      taken.push_back(std::move(entry.event));
    else if (entry.grads && alive.count(entry.pass) > 0)
      kept.push_back(std::move(entry));  // backward may still reach it
    else if (entry.pass >= begin)
      taken.push_back(std::move(entry.event));
  }
  entries_ = std::move(kept);
  open_ = entries_.size();
  visited_ = {0};
  begun_.reset();
  return taken;
}

}  // namespace lockstep::fsdp
