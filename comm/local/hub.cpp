#include "comm/local/hub.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "core/base/error.h"

namespace lockstep::comm::local {
namespace {

struct Registry {
  struct Entry {
    std::shared_ptr<Hub> hub;
    int missing;
  };
  std::mutex mutex;
  std::map<std::string, Entry> entries;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

Hub::Hub(int size)
    : members_(static_cast<size_t>(size)),
      calls_(static_cast<size_t>(size)),
      slots_(static_cast<size_t>(size) * static_cast<size_t>(size)) {}

std::shared_ptr<Hub> Hub::join(const std::string& key, int rank, int size, const Deadline& deadline) {
  std::shared_ptr<Hub> hub;
  {
    std::lock_guard lock(registry().mutex);
    auto& entry = registry().entries.try_emplace(key, Registry::Entry{nullptr, size}).first->second;
    if (!entry.hub) entry.hub = std::make_shared<Hub>(size);
    hub = entry.hub;
    if (--entry.missing == 0) registry().entries.erase(key);
  }
  Lock lock(hub->mutex_);
  hub->members_[static_cast<size_t>(rank)].joined = 1;
  hub->changed_.notify_all();
  try {
    hub->await(lock, deadline, "joined", [&](int r) { return hub->members_[static_cast<size_t>(r)].joined > 0; });
  } catch (...) {
    std::lock_guard registry_lock(registry().mutex);
    registry().entries.erase(key);
    throw;
  }
  return hub;
}

void Hub::await(Lock& lock, const Limit& limit, std::string_view doing, const std::function<bool(int)>& present) {
  while (true) {
    std::vector<int> missing, left;
    for (int rank = 0; rank < size(); ++rank) {
      if (present(rank)) continue;
      missing.push_back(rank);
      if (members_[static_cast<size_t>(rank)].left) left.push_back(rank);
    }
    if (missing.empty()) return;
    if (ended()) throw FromPeer<EnvironmentError>(aborted_);
    if (!left.empty()) throw FromPeer<EnvironmentError>(str(ranks_text(left), left.size() == 1 ? " has" : " have", " left the group"));
    if (limit.passed())
      throw FromPeer<TimeoutError>(str(limit.reached(), ": ", ranks_text(missing), missing.size() == 1 ? " has" : " have", " not ", doing));
    changed_.wait_for(lock, limit.nap());
  }
}

void Hub::end_with(const Call& call) {
  std::string reason;
  try {
    throw;
  } catch (const std::exception& e) {
    reason = e.what();
  }
  if (!ended()) aborted_ = str("[comm] ", call.what, ": ", reason);
  changed_.notify_all();
}

void Hub::collective(int rank, const Call& call, const std::function<void(const std::vector<Call>&)>& move) {
  Lock lock(mutex_);
  Member& me = members_[static_cast<size_t>(rank)];
  calls_[static_cast<size_t>(rank)] = call;
  const uint64_t turn = ++me.arrived;
  changed_.notify_all();
  try {
    await(lock, call.limit, "arrived", [&](int r) { return members_[static_cast<size_t>(r)].arrived >= turn; });
    // First of all: a rank that sees the mismatch earlier has ended the group, but every rank is to get the same error.
    std::vector<Fingerprint> fingerprints;
    for (const Call& c : calls_) fingerprints.push_back(c.fingerprint);
    check_equal(fingerprints);
    if (ended()) throw FromPeer<EnvironmentError>(aborted_);
    me.moving = true;
    lock.unlock();
    move(calls_);
    lock.lock();
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    me.moving = false;
    end_with(call);
    // Nobody begins to move any more, and `move` does not wait, so those inside it come out.
    changed_.wait(lock, [&] { return std::none_of(members_.begin(), members_.end(), [](const Member& m) { return m.moving; }); });
    throw;
  }
  me.moving = false;
  me.moved = turn;
  changed_.notify_all();
  // No limit of its own, as above.
  const auto idle = [&](const Member& m) { return m.moved >= turn || (ended() && !m.moving); };
  changed_.wait(lock, [&] { return std::all_of(members_.begin(), members_.end(), idle); });
  const bool all_moved = std::all_of(members_.begin(), members_.end(), [&](const Member& m) { return m.moved >= turn; });
  if (!all_moved) throw FromPeer<EnvironmentError>(aborted_);
}

void Hub::message(int rank, const Call& call) {
  const bool sending = call.op == Op::send;
  const int from = sending ? rank : call.root, to = sending ? call.root : rank;
  Slot& slot = slots_[static_cast<size_t>(from) * members_.size() + static_cast<size_t>(to)];
  Lock lock(mutex_);
  (sending ? slot.send : slot.recv) = call;
  const uint64_t turn = sending ? ++slot.sends : ++slot.recvs;
  changed_.notify_all();
  try {
    await(lock, call.limit, "arrived", [&](int r) { return r != call.root || (sending ? slot.recvs : slot.sends) >= turn; });
    if (slot.done >= turn) return;  // the receiver may even be at its next message
    if (slot.send.fingerprint != slot.recv.fingerprint) throw mismatch_error(from, slot.send.fingerprint, to, slot.recv.fingerprint);
    // The receiver reads the sender's memory, and may be at it when the group ends.
    if (sending) changed_.wait(lock, [&] { return slot.done >= turn || (ended() && !slot.copying); });
    if (slot.done >= turn) return;
    if (ended()) throw FromPeer<EnvironmentError>(aborted_);
  } catch (...) {
    end_with(call);
    throw;
  }
  slot.copying = true;
  const void* source = slot.send.in;
  lock.unlock();
  if (call.count > 0) std::memcpy(call.out, source, static_cast<size_t>(call.bytes()));
  lock.lock();
  slot.copying = false;
  slot.done = turn;
  changed_.notify_all();
}

void Hub::abort(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (!ended()) aborted_ = reason;
  changed_.notify_all();
}

void Hub::leave(int rank) {
  std::lock_guard lock(mutex_);
  members_[static_cast<size_t>(rank)].left = true;
  changed_.notify_all();
}

}  // namespace lockstep::comm::local
