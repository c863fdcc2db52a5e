#include "comm/local/hub.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm::local {
namespace {

struct Registry {
  struct Entry {
    std::shared_ptr<Hub> hub;
    int missing;
  };
  Mutex mutex;
  std::map<std::string, Entry> entries LOCKSTEP_GUARDED_BY(mutex);
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

Hub::Hub(int size, std::string name)
    : size_(size),
      name_(std::move(name)),
      members_(static_cast<size_t>(size)),
      calls_(static_cast<size_t>(size)),
      slots_(static_cast<size_t>(size) * static_cast<size_t>(size)) {}

std::shared_ptr<Hub> Hub::join(const std::string& key, int rank, int size, const std::string& name,
                               const Limit& limit, const Check& check) {
  std::shared_ptr<Hub> hub;
  {
    Registry& all = registry();
    const MutexLock lock(all.mutex);
    auto& entry = all.entries.try_emplace(key, Registry::Entry{nullptr, size}).first->second;
    if (!entry.hub) entry.hub = std::make_shared<Hub>(size, name);
    hub = entry.hub;
    if (--entry.missing == 0) all.entries.erase(key);
  }
  const MutexLock lock(hub->mutex_);
  hub->members_[static_cast<size_t>(rank)].joined = 1;
  hub->changed_.notify_all();
  try {
    const auto has_joined = [&](int r) LOCKSTEP_REQUIRES(hub->mutex_) {
      return hub->members_[static_cast<size_t>(r)].joined > 0;
    };
    hub->await(limit, str("group '", name, "'"), "joined", has_joined, check);
  } catch (...) {
    Registry& all = registry();
    const MutexLock registry_lock(all.mutex);
    all.entries.erase(key);
    throw;
  }
  return hub;
}

void Hub::await(const Limit& limit, std::string_view what, std::string_view doing,
                const std::function<bool(int)>& present, const Check& check) {
  for (const auto start = Clock::now();;) {
    std::vector<int> missing, left;
    for (int rank = 0; rank < size(); ++rank) {
      if (present(rank)) continue;
      missing.push_back(rank);
      if (members_[static_cast<size_t>(rank)].left) left.push_back(rank);
    }
    if (missing.empty()) return;
    if (ended()) throw FromPeer<EnvironmentError>(aborted_);
    if (!left.empty())
      throw FromPeer<EnvironmentError>(
          str(ranks_text(left), left.size() == 1 ? " has" : " have", " left the group"));
    if (check) check(missing);
    if (limit.passed())
      throw FromPeer<TimeoutError>(str(limit.reached(), ": ", missing_text(missing, doing)));
    say_missing(missing, what, doing, Clock::now() - start);
    changed_.wait_for(mutex_, limit.nap());
  }
}

std::string Hub::last_call(int rank) const {
  const Fingerprint& last = calls_[static_cast<size_t>(rank)].fingerprint;
  return last.sequence == 0 ? "no call yet" : "last call " + describe(last);
}

// "rank 2 has not arrived (last call all_reduce #11 (…))".
std::string Hub::missing_text(const std::vector<int>& missing, std::string_view doing) const {
  std::string text =
      str(ranks_text(missing), missing.size() == 1 ? " has" : " have", " not ", doing);
  if (doing == "joined") return text;
  std::vector<Saying> calls;
  for (const int rank : missing) calls.push_back({{rank}, last_call(rank)});
  calls = merge_equal(calls);
  if (calls.size() == 1) return str(text, " (", calls[0].text, ")");
  return str(text, " (", sayings_text(calls, size()), ")");
}

// Warns once for all waiting ranks: the first one to notice that a warning is due logs it.
void Hub::say_missing(const std::vector<int>& missing, std::string_view what,
                      std::string_view doing, Duration waited) {
  Member& first = members_[static_cast<size_t>(missing.front())];
  if (waited < say_after(first.said)) return;
  for (const int rank : missing) ++members_[static_cast<size_t>(rank)].said;
  log::warn("[comm] ", what, " is held up for ", seconds(say_after(first.said - 1)),
            " s: ", missing_text(missing, doing));
}

void Hub::check_there(const std::vector<int>& ranks) {
  const MutexLock lock(mutex_);
  if (ended()) throw FromPeer<EnvironmentError>(aborted_);
  for (const int rank : ranks)
    if (members_[static_cast<size_t>(rank)].left)
      throw FromPeer<EnvironmentError>(str("rank ", rank, " has left group '", name_, "'"));
}

void Hub::end_with(const Call& call) {
  std::string reason;
  try {
    throw;
  } catch (const std::exception& e) {
    reason = e.what();
  }
  if (!ended()) aborted_ = str("[comm] ", call.what(), ": ", reason);
  changed_.notify_all();
}

void Hub::collective(int rank, const Call& call,
                     const std::function<void(const std::vector<Call>&)>& move) {
  const MutexLock lock(mutex_);
  Member& me = members_[static_cast<size_t>(rank)];
  calls_[static_cast<size_t>(rank)] = call;
  const uint64_t turn = ++me.arrived;
  changed_.notify_all();
  try {
    await(call.limit, call.what(), "arrived", [&](int r) LOCKSTEP_REQUIRES(mutex_) {
      return members_[static_cast<size_t>(r)].arrived >= turn;
    });
    // Compare before looking for an end of the group. Another rank may have found the mismatch
    // first and ended the group, but every rank must report the mismatch itself.
    std::vector<Fingerprint> fingerprints;
    for (const Call& c : calls_) fingerprints.push_back(c.fingerprint);
    check_equal(fingerprints);
    if (ended()) throw FromPeer<EnvironmentError>(aborted_);
    me.moving = true;
    // All ranks have arrived, and no rank starts its next call before all have moved.
    const std::vector<Call>* const calls = &calls_;
    const MutexUnlock unlocked(mutex_);
    move(*calls);
  } catch (...) {
    me.moving = false;
    end_with(call);
    // No rank starts a move any more, and `move` never waits, so this ends without a limit.
    changed_.wait(mutex_, [&]() LOCKSTEP_REQUIRES(mutex_) {
      return std::none_of(members_.begin(), members_.end(),
                          [](const Member& m) { return m.moving; });
    });
    throw;
  }
  me.moving = false;
  me.moved = turn;
  changed_.notify_all();
  // This wait needs no limit either, for the same reason.
  changed_.wait(mutex_, [&]() LOCKSTEP_REQUIRES(mutex_) {
    const bool over = ended();
    return std::all_of(members_.begin(), members_.end(),
                       [&](const Member& m) { return m.moved >= turn || (over && !m.moving); });
  });
  const bool all_moved = std::all_of(members_.begin(), members_.end(),
                                     [&](const Member& m) { return m.moved >= turn; });
  if (!all_moved) throw FromPeer<EnvironmentError>(aborted_);
}

void Hub::message(int rank, const Call& call) {
  const bool sending = call.op == Op::send;
  const int from = sending ? rank : call.root, to = sending ? call.root : rank;
  const MutexLock lock(mutex_);
  Slot& slot = slots_[static_cast<size_t>(from) * members_.size() + static_cast<size_t>(to)];
  (sending ? slot.send : slot.recv) = call;
  const uint64_t turn = sending ? ++slot.sends : ++slot.recvs;
  changed_.notify_all();
  try {
    await(call.limit, call.what(), "arrived",
          [&](int r) { return r != call.root || (sending ? slot.recvs : slot.sends) >= turn; });
    if (slot.done >= turn) return;  // the receiver may even be in its next message
    if (slot.send.fingerprint != slot.recv.fingerprint)
      throw mismatch_error(from, slot.send.fingerprint, to, slot.recv.fingerprint);
    // The receiver reads the sender's memory, and may still do so when the group ends.
    if (sending)
      changed_.wait(mutex_, [&]() LOCKSTEP_REQUIRES(mutex_) {
        return slot.done >= turn || (ended() && !slot.copying);
      });
    if (slot.done >= turn) return;
    if (ended()) throw FromPeer<EnvironmentError>(aborted_);
  } catch (...) {
    if (call.limit.withdrawn() && !ended())
      --slot.recvs;  // withdraw the receive, as if it had never been posted
    else
      end_with(call);
    throw;
  }
  slot.copying = true;
  const void* source = slot.send.in;
  {
    const MutexUnlock unlocked(mutex_);
    if (call.count > 0) std::memcpy(call.out, source, static_cast<size_t>(call.bytes()));
  }
  slot.copying = false;
  slot.done = turn;
  changed_.notify_all();
}

void Hub::abort(const std::string& reason) {
  const MutexLock lock(mutex_);
  if (!ended()) aborted_ = reason;
  changed_.notify_all();
}

void Hub::leave(int rank) {
  const MutexLock lock(mutex_);
  members_[static_cast<size_t>(rank)].left = true;
  changed_.notify_all();
}

}  // namespace lockstep::comm::local
