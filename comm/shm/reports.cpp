// What a group reports about ranks that hold up the others: warnings in the log while it waits, and
// the error at the time limit.
#include <algorithm>
#include <cstring>

#include "comm/engine/process_look.h"
#include "comm/shm/watch.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/mutex.h"

namespace lockstep::comm::shm {
namespace {

// The calls that threads of this process wait in, and the groups whose ranks may read them.
struct Process {
  Mutex mutex;
  std::vector<Group*> groups LOCKSTEP_GUARDED_BY(mutex);
  // One entry for each waiting thread, the oldest first.
  std::list<std::pair<const void*, std::string>> waits LOCKSTEP_GUARDED_BY(mutex);

  void show() LOCKSTEP_REQUIRES(mutex) {
    for (Group* group : groups)
      group->show_waiting(waits.empty() ? std::string() : waits.front().second);
  }
};

Process& process() {
  static Process& instance = *new Process;  // groups may outlive static objects
  return instance;
}

}  // namespace

void Group::enter_process() {
  Process& all = process();
  const MutexLock lock(all.mutex);
  all.groups.push_back(this);
  all.show();
}

void Group::leave_process() {
  Process& all = process();
  const MutexLock lock(all.mutex);
  std::erase(all.groups, this);
}

Group::Watch::~Watch() {
  if (!shown_) return;
  Process& all = process();
  const MutexLock lock(all.mutex);
  all.waits.remove_if([this](const auto& wait) { return wait.first == this; });
  all.show();
}

void Group::Watch::look_closely() {
  next_ = Deadline::after(kEvery);
  if (!shown_) {
    Process& all = process();
    const MutexLock lock(all.mutex);
    all.waits.emplace_back(this, call_.what());
    all.show();
    shown_ = true;
  }
  const auto now = Clock::now();
  const auto look = look_at_process(group_.member(peer_).pid);
  if (!look || !look->stopped()) {
    stopped_since_.reset();
    return group_.warn_of_missing(peer_, call_, now - start_);
  }
  if (!stopped_since_) stopped_since_ = now;
  group_.warn_of_stopped(peer_, call_);
  if (call_.limit.passed_for_stopped(now - *stopped_since_)) throw group_.late(peer_, call_);
}

void Group::show_waiting(const std::string& call) {
  Member& me = member(rank_);
  me.waits_version.fetch_add(1, std::memory_order_acq_rel);
  std::strncpy(me.waits_in, call.c_str(), sizeof me.waits_in - 1);
  me.waits_version.fetch_add(1, std::memory_order_release);
}

// Empty if the rank waits in no call, or changes the text at this moment.
std::string Group::waits_in(int rank) {
  Member& other = member(rank);
  char text[sizeof other.waits_in];
  const uint32_t before = other.waits_version.load(std::memory_order_acquire);
  std::memcpy(text, other.waits_in, sizeof text);
  // This adds 0, to keep the reads above from moving below it. A fence would do, but thread
  // sanitizers do not understand fences.
  const bool whole =
      before % 2 == 0 && other.waits_version.fetch_add(0, std::memory_order_acq_rel) == before;
  return whole ? std::string(text, ::strnlen(text, sizeof text)) : "";
}

// Describes the last collective of a rank that has not arrived at `call`.
std::string Group::last_call(int rank, const Call& call) {
  const auto& notices = member(rank).notices;
  const bool even_is_last = point_to_point(call.op)
                                ? notices[0].call.sequence > notices[1].call.sequence
                                : call.fingerprint.sequence % 2 == 1;
  const Notice& before = notices[even_is_last ? 0 : 1];
  return before.call.sequence == 0 ? "it has made no call yet"
                                   : "its last call was " + describe(before.call);
}

bool Group::has_arrived(int rank, int peer, const Call& call) {
  if (point_to_point(call.op)) return rank != peer;
  return member(rank).notices[call.fingerprint.sequence % 2].call.sequence >=
         call.fingerprint.sequence;
}

// "rank 2 (pid 4711 on node7) is computing and has not arrived, its last call was …; rank 3 …".
std::string Group::missing_text(int peer, const Call& call) {
  std::vector<int> missing, pids;
  for (int r = 0; r < size_; ++r)
    if (r != rank_ && !has_arrived(r, peer, call)) missing.push_back(r);
  const bool all_here = missing.empty();
  if (all_here) missing.push_back(peer);
  for (const int r : missing) pids.push_back(member(r).pid);
  const std::vector<std::string> doing = doings(pids);
  std::string text;
  for (size_t i = 0; i < missing.size(); ++i) {
    const int r = missing[i];
    const std::string other = waits_in(r);
    text += str(i == 0 ? "" : "; ", who(r), " ",
                other.empty() || doing[i] == "is stopped" ? doing[i] : "waits in " + other);
    text += all_here ? std::string(" and has arrived, but does not continue")
                     : str(" and has not arrived, ", last_call(r, call));
  }
  return text;
}

void Group::warn_of_stopped(int peer, const Call& call) {
  if (member(peer).said_stopped.exchange(true, std::memory_order_relaxed)) return;
  const uint64_t sequence = call.fingerprint.sequence;
  const bool arrived =
      !point_to_point(call.op) && member(peer).notices[sequence % 2].call.sequence >= sequence;
  log::warn("[comm] ", who(peer), " is stopped and holds up ", describe(call.fingerprint),
            " in group '", name_, "'",
            arrived ? ", in which it takes part" : "; " + last_call(peer, call), "; 'kill -CONT ",
            member(peer).pid, "' resumes it, or it counts as missing at the group's time limit");
}

void Group::warn_of_missing(int peer, const Call& call, Duration waited) {
  std::atomic<uint32_t>& times = member(peer).said_missing;
  uint32_t said = times.load(std::memory_order_relaxed);
  if (waited < say_after(said) ||
      !times.compare_exchange_strong(said, said + 1, std::memory_order_relaxed))
    return;
  log::warn("[comm] ", call.what(), " is held up for ", seconds(say_after(said)),
            " s: ", missing_text(peer, call));
}

FromPeer<TimeoutError> Group::late(int peer, const Call& call) {
  return FromPeer<TimeoutError>(str(call.limit.reached(), ": ",
                                    point_to_point(call.op) ? "waiting for " : "",
                                    missing_text(peer, call)));
}

}  // namespace lockstep::comm::shm
