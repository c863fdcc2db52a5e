#include "fsdp/schedule.h"

#include <algorithm>
#include <limits>

namespace lockstep::fsdp {

namespace {

// Whether units may have to be released to make room for others.
bool bounded(const std::vector<std::unique_ptr<Unit>>& units, const Options& options) {
  return options.reshard == Reshard::after_forward &&
         units.front()->state() == Unit::State::sharded;
}

}  // namespace

Schedule::Schedule(const std::vector<std::unique_ptr<Unit>>& units, const Options& options)
    : units_in_flight_(bounded(units, options) ? options.units_in_flight
                                               : std::numeric_limits<int>::max()),
      ahead_(bounded(units, options) ? options.units_in_flight - 1 : 1) {
  check(options.units_in_flight >= 1, "[fsdp] expected at least one unit in flight, got ",
        options.units_in_flight);
  for (const auto& unit : units) {
    entries_.emplace_back();
    entries_.back().unit = unit.get();
  }
}

void Schedule::before_forward(Unit& unit) {
  const size_t u = unit.index();
  if (is_root(u)) forget_unfinished();
  hide_seen();
  if (running_.empty()) {
    ++pass_;
    last_order_.swap(order_);
    order_.clear();
  }
  running_.push_back({u, ++clock_});
  ++entries_[u].forwards;
  require(u);
  order_.push_back(u);
  // While the passes agree, expect this one to continue like the previous one.
  const size_t at = order_.size();
  if (at > last_order_.size() || last_order_[at - 1] != u) return;
  fetch_ahead([&](int step, size_t& next) {
    const size_t i = at + static_cast<size_t>(step);
    if (i >= last_order_.size()) return false;
    next = last_order_[i];
    return true;
  });
}

// A pass that ended with an exception never reported its end.
void Schedule::forget_innermost() {
  Entry& entry = entries_[running_.back().unit];
  running_.pop_back();
  --entry.forwards;
  entry.hide_unless_used();
}

// Called when the root's pass or backward starts anew.
void Schedule::forget_unfinished() {
  while (!running_.empty()) forget_innermost();
  trail_ = std::make_shared<std::vector<size_t>>();
}

std::shared_ptr<const Use> Schedule::after_forward(Unit& unit, bool recorded) {
  check(entries_[unit.index()].forwards > 0, "[fsdp] a forward pass of unit '", unit.name(),
        "' ended that was forgotten: the model's forward pass or backward() must not begin within "
        "it");
  // Forget inner passes that threw, if this one caught the exception and continued.
  while (running_.back().unit != unit.index()) forget_innermost();
  const uint64_t begin = running_.back().begin;
  entries_[unit.index()].last_used = ++clock_;
  forget_innermost();
  if (!recorded) return nullptr;
  trail_->push_back(unit.index());
  const auto use = std::make_shared<const Use>(
      Use{unit.index(), begin, clock_, pass_, step_, trail_, trail_->size() - 1});
  if (running_.empty()) {
    std::erase_if(graphs_, [](const auto& graph) { return graph.expired(); });
    graphs_.push_back(use);
  }
  return use;
}

void Schedule::before_backward(Unit& unit, const Use& use) {
  if (std::exchange(use.backward, backward_) == backward_) return;
  // Nodes run in reverse order of creation, so units whose passes began after this use ended are
  // done. If one is not (its output was computed before its forward pass), reading its parameters
  // gathers it again.
  hide_seen();
  for (Entry& other : entries_)
    if (other.in_backward && other.visited > use.end) backward_done(*other.unit);
  Entry& entry = entries_[unit.index()];
  entry.in_backward = true;
  entry.visited = use.begin;
  require(unit.index());
  fetch_ahead([&](int step, size_t& next) {
    if (use.position < static_cast<size_t>(step) + 1) return false;
    next = (*use.trail)[use.position - static_cast<size_t>(step) - 1];
    return true;
  });
}

void Schedule::backward_done(Unit& unit) {
  Entry& entry = entries_[unit.index()];
  entry.in_backward = false;
  entry.last_used = ++clock_;
  entry.hide_unless_used();
}

void Schedule::read(Unit& unit) {
  seen_.push_back(unit.index());
  gather(unit.index(), false);
  unit.show(true);
}

void Schedule::peek(Unit& unit) {
  if (unit.state() != Unit::State::gathered || unit.changed()) return;
  seen_.push_back(unit.index());
  unit.show(true);
}

void Schedule::hide_seen() {
  for (const size_t u : seen_) entries_[u].hide_unless_used();
  seen_.clear();
}

void Schedule::begin_micro_batch() {
  if (!running_.empty()) forget_unfinished();
}

void Schedule::end_micro_batch() {
  hide_seen();
  for (Entry& entry : entries_) {
    entry.in_backward = false;
    entry.hide_unless_used();
  }
  trail_ = std::make_shared<std::vector<size_t>>();
  ++backward_;
}

void Schedule::end_step() {
  ++step_;
  release_all();
}

void Schedule::release_all() {
  for (Entry& entry : entries_) {
    if (entry.unit->state() == Unit::State::gathering) entry.unit->wait_gathered();
    if (entry.unit->state() == Unit::State::gathered) entry.unit->release();
    entry.unit->values_changed();
  }
  graphs_.clear();
}

bool Schedule::has_gathered() const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entry& e) { return e.unit->state() != Unit::State::sharded; });
}

bool Schedule::has_open_graphs() const {
  return std::any_of(graphs_.begin(), graphs_.end(),
                     [](const auto& graph) { return !graph.expired(); });
}

void Schedule::require(size_t u) {
  gather(u, true);
  entries_[u].unit->show();
}

void Schedule::gather(size_t u, bool may_evict) {
  Unit& unit = *entries_[u].unit;
  unit.hold_values();
  entries_[u].last_used = ++clock_;
  if (unit.state() == Unit::State::sharded) {
    if (may_evict && !is_root(u)) make_room(true);
    unit.start_gather();
  }
  if (unit.state() == Unit::State::gathering) {
    const auto start = Clock::now();
    const std::vector<comm::Work> works = unit.wait_gathered();
    exposed_.add(std::chrono::duration_cast<Duration>(Clock::now() - start));
    for (const comm::Work& work : works) exposed_.add(work);
  }
}

// Makes room for one more unit. `for_certain`: the unit is needed now, so if all others are in use,
// the limit is exceeded.
bool Schedule::make_room(bool for_certain) {
  while (true) {
    int whole = 0;
    Entry* oldest = nullptr;
    for (size_t i = 1; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      if (entry.unit->state() == Unit::State::sharded) continue;
      ++whole;
      if (!entry.in_use() && (!oldest || entry.last_used < oldest->last_used)) oldest = &entry;
    }
    if (whole < units_in_flight_) return true;
    if (!oldest) return for_certain;
    if (oldest->unit->state() == Unit::State::gathering) oldest->unit->wait_gathered();
    oldest->unit->release();
  }
}

// next(step, unit) sets the unit that comes step + 1 uses from now, or returns false if unknown.
void Schedule::fetch_ahead(const std::function<bool(int, size_t&)>& next) {
  size_t u = 0;
  for (int step = 0; step < ahead_ && next(step, u); ++step) {
    Entry& entry = entries_[u];
    if (entry.unit->state() == Unit::State::sharded) {
      if (!is_root(u) && !make_room(false)) return;
      entry.unit->start_gather();
    }
    if (!entry.in_use()) entry.last_used = ++clock_;
  }
}

}  // namespace lockstep::fsdp
