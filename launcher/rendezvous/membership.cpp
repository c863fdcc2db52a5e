#include "launcher/rendezvous/membership.h"

#include <algorithm>

namespace lockstep::launcher {
namespace {

std::string name_of(const Node& node) { return str(node.host, " (agent pid ", node.pid, ")"); }

// A rank that stood still explains why others gave up waiting, but it does not explain other
// failures.
int weight_as_cause(const Failure& failure) {
  return failure.caused_by_peer ? 0 : failure.stopped ? 1 : 2;
}

}  // namespace

const char* to_string(Phase phase) {
  switch (phase) {
    case Phase::gathering: return "gathering";
    case Phase::running: return "running";
    case Phase::draining: return "draining";
    case Phase::finished: return "finished";
    case Phase::failed: return "failed";
  }
  return "?";
}

Duration backoff_after(int idle) {
  constexpr int64_t kMost = 60;
  return std::chrono::seconds(idle < 2 ? 0 : std::min(kMost, int64_t{1} << std::min(idle - 2, 6)));
}

Membership::Membership(JobShape shape) : shape_(std::move(shape)) {
  state_.lease = shape_.lease;
  check(shape_.min_nodes >= 0 && shape_.min_nodes <= shape_.nodes, "[rendezvous] a job of ",
        shape_.nodes, " node(s) cannot need at least ", shape_.min_nodes);
  check(shape_.nodes >= 1, "[rendezvous] a job has at least one node, got ", shape_.nodes);
  check(shape_.max_restarts >= 0, "[rendezvous] max restarts cannot be negative, got ",
        shape_.max_restarts);
}

Membership::Member& Membership::member(const std::string& node_id) {
  const auto found = members_.find(node_id);
  check(found != members_.end(), "[rendezvous] node '", node_id, "' is not part of run '",
        shape_.run_id, "' (any more): it was lost, has left, or belongs to another run");
  return found->second;
}

// Any message from a node proves that it lives.
Membership::Member& Membership::member_in_epoch(const std::string& node_id, uint64_t epoch,
                                                Duration now) {
  Member& sender = member(node_id);
  check(epoch == state_.epoch, "[rendezvous] run '", shape_.run_id, "' is at epoch ", state_.epoch,
        ", ", name_of(sender.node), " sent epoch ", epoch);
  sender.last_seen = now;
  sender.disconnected_at.reset();
  settle();
  return sender;
}

void Membership::check_node_rank(const Node& node) const {
  if (node.node_rank < 0) return;
  // Later, ranks of an elastic job are renumbered: a wanted rank only says who comes first.
  if (elastic() && state_.epoch > 0) return;
  check(node.node_rank < shape_.nodes, "[rendezvous] node rank ", node.node_rank,
        " does not exist in a job of ", shape_.nodes, " node(s)");
  for (const auto& other : state_.nodes)
    check(other.node_rank != node.node_rank, "[rendezvous] node rank ", node.node_rank,
          " is taken by ", name_of(other), "; give every node its own --node-rank, or none");
}

// The node rank for a joining node. Later epochs have the same ranks as the first, because what is
// kept in memory is divided by these ranks.
int Membership::place_for(const Node& node) const {
  if (slots_.empty() || elastic()) return node.node_rank;
  std::string free;
  for (int place = 0; place < shape_.nodes; ++place) {
    const bool taken = std::any_of(state_.nodes.begin(), state_.nodes.end(),
                                   [&](const Node& n) { return n.node_rank == place; });
    if (taken || (node.node_rank >= 0 && node.node_rank != place)) continue;
    const int slots = slots_[static_cast<size_t>(place)];
    if (slots == node.slots) return place;
    free += str(free.empty() ? "" : ", ", "node ", place, " with ", slots, " rank(s)");
  }
  throw UsageError(str("[rendezvous] run '", shape_.run_id, "' has lost ", free, ", but ",
                       name_of(node), " was started for ", node.slots,
                       ": start its replacement with the same number (--nproc-per-node)"));
}

// A replacement for a lost node may know of the loss before the membership does, because a machine
// that vanishes breaks no connection.
void Membership::check_no_loss(const std::string& node_id, Duration now) {
  const bool running = state_.phase == Phase::running && shape_.nodes > 1;
  if ((!restarts_left() && !elastic()) || (state_.phase != Phase::draining && !running)) return;
  const Duration asked = asked_at_.emplace(node_id, now).first->second;
  if (state_.phase == Phase::draining || !state_.settled)
    throw TryAgain(str("[rendezvous] run '", shape_.run_id, "' has just failed (epoch ",
                       state_.epoch, "): it is not known yet whether it needs another node"));
  if (now < asked + shape_.lease)
    throw TryAgain(str("[rendezvous] run '", shape_.run_id, "' has all its ", shape_.nodes,
                       " nodes (epoch ", state_.epoch,
                       "): if one of them was lost, this shows within ", seconds(shape_.lease),
                       " s"));
}

void Membership::join(const std::string& run_id, const Node& node, int nodes, int max_restarts,
                      Duration now) {
  check(run_id == shape_.run_id, "[rendezvous] this endpoint serves run '", shape_.run_id,
        "', but ", name_of(node), " asked for run '", run_id,
        "'; use another endpoint or the same --rdzv-id");
  check(!node.node_id.empty(), "[rendezvous] a node needs an id");
  check(!members_.contains(node.node_id), "[rendezvous] node '", node.node_id,
        "' has joined already");
  check(nodes == shape_.nodes, "[rendezvous] run '", run_id, "' wants ", shape_.nodes,
        " node(s), but ", name_of(node), " was started for ", nodes,
        "; --nnodes must be equal everywhere");
  check(max_restarts == shape_.max_restarts, "[rendezvous] run '", run_id, "' has --max-restarts ",
        shape_.max_restarts, ", but ", name_of(node), " was started with ", max_restarts);
  check(node.slots >= 1, "[rendezvous] a node runs at least one rank, got ", node.slots);
  check(!elastic() || !state_.stopping, "[rendezvous] run '", run_id,
        "' was asked to stop and takes no more nodes");
  const bool late = elastic() && node_count() < shape_.nodes &&
                    (state_.phase == Phase::running || state_.phase == Phase::draining);
  if (!late) check_no_loss(node.node_id, now);
  check(late || state_.phase == Phase::gathering, "[rendezvous] run '", run_id, "' has all its ",
        shape_.nodes, " node(s) already (", to_string(state_.phase), ", epoch ", state_.epoch, ")");
  if (node_count() >= shape_.nodes)
    throw TryAgain(str("[rendezvous] run '", run_id, "' has all its ", shape_.nodes,
                       " nodes, and epoch ", state_.epoch + 1, " begins in a moment"));
  check_node_rank(node);
  Node placed = node;
  placed.node_rank = place_for(node);
  if (!gathering_since_) gathering_since_ = now;
  asked_at_.erase(node.node_id);
  Member& added = members_[node.node_id];
  added.node = placed;
  added.last_seen = now;
  added.arrival = ++arrivals_;
  last_joined_ = now;
  if (late) {
    resize();
    added.drained = true;  // no rank of this epoch runs there
  } else {
    state_.nodes.push_back(placed);
    begin_epoch_if_complete(now);
  }
  changed();
}

// The running ranks save and end, and the next epoch has the new node.
void Membership::resize() {
  if (state_.phase != Phase::running) return;
  state_.phase = Phase::draining;
  state_.resizing = true;
}

// Assigns wanted node ranks first, then the others in order of arrival. Ranks are contiguous by
// node. Node ranks of an elastic job have no gaps.
void Membership::close_roster() {
  std::erase_if(state_.nodes, [&](const Node& node) { return !members_.contains(node.node_id); });
  std::vector<const Member*> late;
  for (const auto& [id, each] : members_)
    if (std::none_of(state_.nodes.begin(), state_.nodes.end(),
                     [&id = id](const Node& node) { return node.node_id == id; }))
      late.push_back(&each);
  std::sort(late.begin(), late.end(), [](auto* a, auto* b) { return a->arrival < b->arrival; });
  for (const Member* each : late) state_.nodes.push_back(each->node);
  if (elastic()) {
    const auto place = [&](const Node& n) { return n.node_rank < 0 ? shape_.nodes : n.node_rank; };
    std::stable_sort(state_.nodes.begin(), state_.nodes.end(),
                     [&](const Node& a, const Node& b) { return place(a) < place(b); });
    for (size_t i = 0; i < state_.nodes.size(); ++i)
      state_.nodes[i].node_rank = static_cast<int>(i);
  }
  std::vector<bool> taken(static_cast<size_t>(shape_.nodes));
  for (const auto& node : state_.nodes)
    if (node.node_rank >= 0) taken[static_cast<size_t>(node.node_rank)] = true;
  for (auto& node : state_.nodes) {
    if (node.node_rank >= 0) continue;
    const auto free = std::find(taken.begin(), taken.end(), false);
    *free = true;
    node.node_rank = static_cast<int>(free - taken.begin());
  }
  std::sort(state_.nodes.begin(), state_.nodes.end(),
            [](const Node& a, const Node& b) { return a.node_rank < b.node_rank; });
  int next_rank = 0;
  slots_.clear();
  for (auto& node : state_.nodes) {
    slots_.push_back(node.slots);
    node.first_rank = next_rank;
    next_rank += node.slots;
    members_[node.node_id].node = node;
  }
  begin_epoch();
}

void Membership::begin_epoch() {
  ++state_.epoch;
  state_.phase = Phase::running;
  state_.failure.reset();
  state_.resizing = false;
  failure_from_.clear();
  node_lost_ = progressed_ = false;
  for (auto& [id, each] : members_) each.drained = each.finished = false;
}

// Starts the next epoch when all nodes are drained and the job may go on. It waits for a
// replacement of a lost node.
void Membership::begin_epoch_if_drained(Duration now) {
  const bool all =
      std::all_of(members_.begin(), members_.end(), [](const auto& m) { return m.second.drained; });
  if (state_.phase != Phase::draining || members_.empty() || !all) return;
  if (!prepare_next_epoch(now)) {
    state_.phase = Phase::failed;
    return;
  }
  std::erase_if(state_.nodes, [&](const Node& node) { return !members_.contains(node.node_id); });
  state_.phase = Phase::gathering;
  gathering_since_ = now;
  begin_epoch_if_complete(now);
}

// Whether another epoch may follow the one that has ended.
bool Membership::prepare_next_epoch(Duration now) {
  if (!wants_next_epoch()) return false;
  if (!state_.failure) return true;
  const int idle = progressed_ ? 0 : state_.idle_restarts + 1;
  if (idle > shape_.most_idle_restarts) {
    state_.failure->reason += str(state_.failure->reason.empty() ? "" : "; ", "the last ",
                                  shape_.most_idle_restarts, " restarts made no progress");
    return false;
  }
  const bool node_failed = state_.failure->rank < 0;
  if (elastic() && node_failed) {
    // The number of nodes may change as often as it likes.
  } else if (state_.restarts < shape_.max_restarts) {
    ++state_.restarts;
  } else if (!drop_rank(*state_.failure)) {
    return false;
  }
  state_.idle_restarts = idle;
  not_before_ = std::max(not_before_, now + backoff_after(idle));
  return true;
}

bool Membership::may_drop_a_rank() const {
  return std::any_of(members_.begin(), members_.end(), [](const auto& m) {
    const Node& node = m.second.node;
    return node.min_slots > 0 && node.min_slots < node.slots;
  });
}

// Leaves out the rank that has failed. False if its node needs as many as it has.
bool Membership::drop_rank(const Failure& failure) {
  if (failure.rank < 0 || failure.caused_by_peer) return false;
  for (Node& node : state_.nodes) {
    const int local = failure.rank - node.first_rank;
    if (local < 0 || local >= node.slots || !members_.contains(node.node_id)) continue;
    if (node.min_slots <= 0 || node.min_slots >= node.slots) return false;
    --node.slots;
    members_[node.node_id].node = node;
    return true;
  }
  return false;
}

void Membership::begin_epoch_if_complete(Duration now) {
  if (state_.phase != Phase::gathering || now < not_before_ || node_count() < least_nodes()) return;
  const bool waited = !waits_for_spares() ||
                      now >= std::max(*gathering_since_, last_joined_) + shape_.spare_timeout;
  if (node_count() == shape_.nodes || (elastic() && waited)) close_roster();
}

// A job that was asked to stop does not wait for another node.
bool Membership::wants_next_epoch() const {
  return !state_.stopping || (shape_.saves_when_stopped && node_count() >= least_nodes());
}

void Membership::heartbeat(const std::string& node_id, uint64_t epoch, Duration now) {
  Member& sender = member(node_id);
  // An epoch may have begun while the message was on its way. A message from a later epoch, or from
  // more than one epoch back, does not belong to this run.
  check(epoch <= state_.epoch && epoch + 1 >= state_.epoch, "[rendezvous] run '", shape_.run_id,
        "' is at epoch ", state_.epoch, ", ", name_of(sender.node), " sent epoch ", epoch);
  member_in_epoch(node_id, state_.epoch, now);
}

void Membership::disconnected(const std::string& node_id, Duration now) {
  const auto found = members_.find(node_id);
  if (found == members_.end() || found->second.disconnected_at) return;
  found->second.disconnected_at = now;
  settle();
}

Duration Membership::lease_end(const Member& each) const {
  const Duration end = each.last_seen + shape_.lease;
  return each.disconnected_at ? std::min(end, *each.disconnected_at + shape_.reconnect) : end;
}

void Membership::settle() {
  const bool settled = std::none_of(members_.begin(), members_.end(), [](const auto& m) {
    return m.second.disconnected_at.has_value();
  });
  if (settled == state_.settled) return;
  state_.settled = settled;
  changed();
}

void Membership::end_epoch(const Failure& failure, Duration now) {
  state_.failure = failure;
  failed_at_ = now;
  const bool final = failure.rank >= 0 && !failure.caused_by_peer && failure.signal == 0 &&
                     failure.exit_code == shape_.final_code;
  // Whether the job can go on with fewer is known when all have drained: the failure of a rank may
  // turn out to be the loss of a node.
  const bool possible = restarts_left() || (!state_.stopping && (elastic() || may_drop_a_rank()));
  const bool again = (state_.phase == Phase::running || state_.resizing) && possible &&
                     !members_.empty() && !final;
  state_.resizing = false;
  state_.phase = again ? Phase::draining : Phase::failed;
  changed();
}

void Membership::fail(const std::string& node_id, uint64_t epoch, const Failure& failure,
                      Duration now) {
  member_in_epoch(node_id, epoch, now);
  if (state_.phase == Phase::running || state_.resizing) {
    failure_from_ = node_id;
    return end_epoch(failure, now);
  }
  if (!state_.failure) return;
  // A node may know more once all its ranks have ended. A cause replaces a consequence.
  const int weight = weight_as_cause(failure), known = weight_as_cause(*state_.failure);
  if (weight < known || (weight == known && failure_from_ != node_id)) return;
  state_.failure = failure;
  failure_from_ = node_id;
  changed();
}

void Membership::finish(const std::string& node_id, uint64_t epoch, bool saved, Duration now) {
  Member& sender = member_in_epoch(node_id, epoch, now);
  if (state_.phase != Phase::running || sender.finished) return;
  sender.finished = true;
  if (saved) state_.saved = true;
  if (std::all_of(members_.begin(), members_.end(),
                  [](const auto& m) { return m.second.finished; }))
    state_.phase = Phase::finished;
  changed();
}

void Membership::drained(const std::string& node_id, uint64_t epoch, bool progressed,
                         Duration now) {
  // The node repeats this because the answer with the new epoch was lost.
  if (epoch + 1 == state_.epoch) return heartbeat(node_id, epoch, now);
  Member& sender = member_in_epoch(node_id, epoch, now);
  if (state_.phase != Phase::draining || sender.drained) return;
  sender.drained = true;
  progressed_ = progressed_ || progressed;
  begin_epoch_if_drained(now);
  changed();
}

void Membership::stop(const std::string& node_id, Duration now) {
  member(node_id).last_seen = now;
  if (state_.stopping) return;
  state_.stopping = true;
  const bool between_epochs =
      state_.phase == Phase::draining || (state_.phase == Phase::gathering && state_.epoch > 0);
  if (between_epochs && !wants_next_epoch()) state_.phase = Phase::failed;
  changed();
}

void Membership::leave(const std::string& node_id, Duration now) {
  const Member leaver = member(node_id);
  members_.erase(node_id);
  std::erase_if(state_.nodes, [&](const Node& n) {
    return n.node_id == node_id && state_.phase == Phase::gathering;
  });
  settle();
  const bool needed =
      state_.phase == Phase::draining || (state_.phase == Phase::running && !leaver.finished);
  if (needed) {
    Failure failure;
    failure.host = leaver.node.host;
    failure.reason = str("node ", leaver.node.node_rank, " on ", name_of(leaver.node),
                         " left the job before it was done");
    state_.phase = Phase::failed;
    state_.resizing = false;
    if (!state_.failure) end_epoch(failure, now);
  }
  changed();
}

// A node that fell silent before the failure was reported is the cause: its ranks died with it, and
// other nodes only saw that.
void Membership::lose(const Member& lost, Duration now) {
  const std::string id = lost.node.node_id;
  const bool finished = lost.finished;
  Failure failure;
  failure.host = lost.node.host;
  failure.reason =
      str("node ", lost.node.node_rank, " on ", name_of(lost.node), " was lost: ",
          lost.disconnected_at ? "its connection broke and it did not come back within "
                               : "no sign of life for ",
          seconds(lost.disconnected_at ? shape_.reconnect : shape_.lease), " s");
  const Duration silent_since = lost.disconnected_at.value_or(lost.last_seen + shape_.lease / 2);
  const bool drained = lost.drained;
  members_.erase(id);
  settle();
  changed();
  node_lost_ = true;
  // Its ranks may still run.
  if (!finished && !drained)
    not_before_ = std::max(not_before_, lost.last_seen + others_may_follow(shape_.lease));
  if (state_.phase == Phase::gathering) {
    std::erase_if(state_.nodes, [&](const Node& n) { return n.node_id == id; });
  } else if ((state_.phase == Phase::running && !finished) || (state_.resizing && !drained)) {
    end_epoch(failure, now);
  } else if (state_.phase == Phase::draining || state_.phase == Phase::failed) {
    if (state_.failure &&
        (state_.failure->caused_by_peer || (!finished && silent_since <= failed_at_))) {
      state_.failure = failure;
      failure_from_.clear();
    }
    if (members_.empty()) state_.phase = Phase::failed;
  }
  begin_epoch_if_drained(now);
}

std::string Membership::missing_text() const {
  std::vector<bool> present(static_cast<size_t>(shape_.nodes));
  std::string joined;
  bool ranks_known = !state_.nodes.empty();
  for (const auto& node : state_.nodes) {
    if (!joined.empty()) joined += ", ";
    joined += name_of(node);
    if (node.node_rank >= 0) {
      present[static_cast<size_t>(node.node_rank)] = true;
      joined += str(" as node ", node.node_rank);
    } else {
      ranks_known = false;
    }
  }
  std::string text = str(state_.nodes.size(), " of ",
                         elastic() ? str("at least ", least_nodes()) : str(shape_.nodes),
                         " joined: ", joined.empty() ? "none" : joined);
  if (!ranks_known || elastic()) return text;
  text += "; missing: node";
  for (size_t i = 0; i < present.size(); ++i)
    if (!present[i]) text += str(" ", i);
  return text;
}

void Membership::tick(Duration now) {
  for (bool again = true; again;) {
    again = false;
    for (const auto& [id, each] : members_) {
      if (lease_end(each) > now) continue;
      lose(Member(each), now);
      again = true;
      break;
    }
  }
  if (state_.phase != Phase::gathering || !gathering_since_) return;
  begin_epoch_if_complete(now);
  if (state_.phase == Phase::running) return changed();
  if (node_count() < least_nodes() && now >= *gathering_since_ + limit_of_gathering()) {
    Failure failure;
    failure.reason =
        elastic() && state_.epoch > 0
            ? str("fewer than ", least_nodes(), " nodes are left, and nobody has joined for ",
                  seconds(limit_of_gathering()), " s; ", missing_text())
            : str("waited ", seconds(shape_.join_timeout), " s for ", least_nodes(), " nodes; ",
                  missing_text());
    if (state_.failure) failure.reason += "; before that, " + state_.failure->reason;
    end_epoch(failure, now);
  }
}

// An elastic job that has begun does not wait longer for the nodes that it needs than for others.
Duration Membership::limit_of_gathering() const {
  return elastic() && state_.epoch > 0 ? shape_.spare_timeout : shape_.join_timeout;
}

void Membership::check_epoch_of_rank(uint64_t epoch) const {
  check(epoch == 0 || epoch == state_.epoch, "[store] run '", shape_.run_id, "' is at epoch ",
        state_.epoch, ", and a rank of epoch ", epoch, " must not use its store any more");
}

std::optional<Duration> Membership::next_deadline() const {
  std::optional<Duration> next;
  const auto consider = [&](Duration at) { next = next ? std::min(*next, at) : at; };
  for (const auto& [id, each] : members_) consider(lease_end(each));
  if (state_.phase != Phase::gathering || !gathering_since_) return next;
  if (node_count() < least_nodes()) {
    consider(*gathering_since_ + limit_of_gathering());
  } else {
    if (node_count() < shape_.nodes && waits_for_spares())
      consider(
          std::max(not_before_, std::max(*gathering_since_, last_joined_) + shape_.spare_timeout));
    else
      consider(not_before_);
  }
  return next;
}

}  // namespace lockstep::launcher
