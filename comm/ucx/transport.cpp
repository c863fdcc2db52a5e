#include "comm/ucx/transport.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include <unistd.h>

#include "comm/engine/failure_note.h"
#include "comm/engine/fingerprint.h"
#include "comm/engine/process_look.h"
#include "comm/peer_failure.h"
#include "comm/ucx/library.h"
#include "comm/ucx/proof.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/thread.h"

namespace lockstep::comm::ucx {
namespace {

// A rank that learns that another one has ended the group keeps on for this long, to receive what
// was sent before: after a mismatch all ranks shall see the mismatch, and after the last collective
// a rank may leave while others still read.
constexpr Duration kGrace = std::chrono::milliseconds(300);
constexpr Duration kLookEvery = std::chrono::milliseconds(250);
constexpr Duration kAskAgain = std::chrono::milliseconds(5);
constexpr Duration kBeatEvery = std::chrono::seconds(1);

// The first message between each two ranks of a group.
struct Hello {
  uint64_t magic;
  uint64_t group;
  uint64_t name;
  uint32_t rank;
  uint32_t size;
  Digest proof;
};
constexpr uint64_t kMagic = 0x32786375'6b636f6c;  // "lockucx2"

}  // namespace

UcxTransport::UcxTransport(int rank, int size, std::string name)
    : rank_(rank),
      size_(size),
      name_(std::move(name)),
      self_(this_process("")),
      left_(static_cast<size_t>(size)),
      lost_(static_cast<size_t>(size)),
      heard_(static_cast<size_t>(size), Clock::now()),
      worker_(
          {[this](int from, NoteKind kind, std::string_view text) { on_note(from, kind, text); },
           [this](int peer, const std::string& why) { on_lost(peer, why); }}) {}

UcxTransport::~UcxTransport() {
  if (self_.pid != ::getpid()) {  // a forked child has neither the thread nor the connections
    if (keeper_.joinable()) keeper_.detach();
    return;
  }
  {
    const MutexLock lock(worker_.mutex());
    stop_ = true;
    if (aborted_.empty() && !members_.empty())
      for (int r = 0; r < size_; ++r)
        if (r != rank_) worker_.post(r, NoteKind::left, "");
    worker_.wake();
  }
  if (keeper_.joinable()) keeper_.join();
}

void UcxTransport::connect(GroupSecret secret, std::vector<Attendant> members, const Limit& limit) {
  members_ = std::move(members);
  key_ = std::move(secret.key);
  const uint64_t group = secret.group;
  std::vector<std::string> addresses;
  for (const Attendant& m : members_) addresses.push_back(m.says);
  worker_.connect(group, rank_, addresses);
  keeper_ = start_thread("to watch over a group's connections", [this] { keep(); });
  const auto size = static_cast<size_t>(size_);
  std::vector<Hello> hellos(size);
  std::vector<Hello> mine(size);
  const auto proof = [&](size_t from, size_t to, uint64_t name) {
    return prove(key_, {.group = group,
                        .name = name,
                        .from = static_cast<uint32_t>(from),
                        .to = static_cast<uint32_t>(to),
                        .size = static_cast<uint32_t>(size_),
                        .from_number = secret.numbers[from],
                        .to_number = secret.numbers[to]});
  };
  const uint64_t name = hash_name(name_);
  std::vector<Send> sends;
  std::vector<Receive> receives;
  for (int i = 1; i < size_; ++i) {
    const int peer = (rank_ + i) % size_;
    const auto place = static_cast<size_t>(peer);
    mine[place] = {kMagic,
                   group,
                   name,
                   static_cast<uint32_t>(rank_),
                   static_cast<uint32_t>(size_),
                   proof(static_cast<size_t>(rank_), place, name)};
    sends.push_back({peer, &mine[place], sizeof(Hello)});
    receives.push_back({peer, &hellos[place], sizeof(Hello)});
  }
  // A greeting is no data: a rank that is through, and ends the group at once, spoils nobody's.
  exchange(Channel::opening, sends, receives, limit);
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    const Hello& h = hellos[static_cast<size_t>(r)];
    if (h.magic != kMagic || h.group != group || h.rank != static_cast<uint32_t>(r) ||
        h.size != static_cast<uint32_t>(size_))
      throw EnvironmentError(
          str("[ucx] ", who(r), " does not speak for rank ", r, " of ", size_,
              " of this group: another program, or another version of lockstep"));
    if (!equal(h.proof, proof(static_cast<size_t>(r), static_cast<size_t>(rank_), h.name)))
      throw EnvironmentError(str("[ucx] whoever speaks for rank ", r, " (", who(r),
                                 ") does not prove that it is that rank of this group: a process "
                                 "of another job connected in its place"));
    check(h.name == name, "[ucx] ranks create groups in different order: rank ", rank_,
          " creates '", name_, "', but rank ", r, " another one");
  }
}

namespace {

// Part `i` of a message in equal pieces; false if it has no such piece. One whole message could
// keep a connection busy for longer than a rank may be silent.
template <class Message>
bool piece_of(const Message& whole, size_t i, Message& piece) {
  constexpr size_t kMost = size_t{8} << 20;
  const size_t pieces = std::max<size_t>(1, (whole.bytes + kMost - 1) / kMost);
  if (i >= pieces) return false;
  const size_t each = (whole.bytes + pieces - 1) / pieces, begin = i * each;
  piece = whole;
  if (begin > 0) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(whole.data)>>,
                                    const std::byte, std::byte>;
    piece.data = static_cast<Byte*>(whole.data) + begin;
  }
  piece.bytes = std::min(each, whole.bytes - begin);
  return true;
}

}  // namespace

void UcxTransport::exchange(Channel channel, std::span<const Send> sends,
                            std::span<const Receive> receives, const Limit& limit) {
  std::vector<Send> send_pieces;
  std::vector<Receive> receive_pieces;
  for (size_t i = 0;; ++i) {
    send_pieces.clear();
    receive_pieces.clear();
    Send send{};
    Receive receive{};
    for (const Send& whole : sends)
      if (piece_of(whole, i, send)) send_pieces.push_back(send);
    for (const Receive& whole : receives)
      if (piece_of(whole, i, receive)) receive_pieces.push_back(receive);
    if (i > 0 && send_pieces.empty() && receive_pieces.empty()) return;
    exchange_pieces(channel, send_pieces, receive_pieces, limit);
  }
}

void UcxTransport::exchange_pieces(Channel channel, std::span<const Send> sends,
                                   std::span<const Receive> receives, const Limit& limit) {
  if (self_.pid != ::getpid())
    throw EnvironmentError(
        "[ucx] this process was forked from one that has a ucx group: make a "
        "group of its own");
  Pending pending(worker_);
  const MutexLock lock(worker_.mutex());
  throw_if_aborted();
  // No data to or from a rank that has given up. Fingerprints still meet, so that all ranks see a
  // mismatch; what rides along with them is a copy.
  const auto is_data = [](const auto& message) { return message.bytes > sizeof(Fingerprint); };
  if (channel != Channel::opening && !aborted_by_peer_.empty() &&
      (std::any_of(sends.begin(), sends.end(), is_data) ||
       std::any_of(receives.begin(), receives.end(), is_data)))
    throw FromPeer<EnvironmentError>(aborted_by_peer_);
  const auto lane = static_cast<uint8_t>(channel);
  try {
    for (const auto& r : receives) worker_.receive(pending, r.from, lane, r.data, r.bytes, r.got);
    for (const auto& s : sends) worker_.send(pending, s.to, lane, s.data, s.bytes);
    complete(pending, limit);
    // A sender that gave up has its memory back, and may have changed it before it was read. Its
    // word may have come together with the data.
    if (channel != Channel::opening && std::any_of(receives.begin(), receives.end(), is_data))
      worker_.drain();
    if (channel != Channel::opening && !aborted_by_peer_.empty() &&
        std::any_of(receives.begin(), receives.end(), is_data))
      throw FromPeer<EnvironmentError>(aborted_by_peer_);
  } catch (const std::exception& error) {
    if (!limit.withdrawn()) {
      note_failure();
      if (aborted_.empty()) {
        const MutexUnlock unlocked(worker_.mutex());
        abort(error.what());
      }
    }
    worker_.finish(pending);
    throw;
  }
  worker_.finish(pending);
}

void UcxTransport::complete(Pending& pending, const Limit& limit) {
  std::optional<Deadline> grace;
  Watch watch;
  while (!pending.done() || pending.failed) {
    if (limit.withdrawn()) worker_.drain();  // what is there already counts
    if (pending.done() && !pending.failed) break;
    throw_if_aborted();
    if (any_gone_ || pending.failed) {
      if (!grace) grace = Deadline::after(kGrace);
      const std::string why = ended_by_peer(pending, grace->passed());
      if (!why.empty()) throw FromPeer<EnvironmentError>(why);
    }
    if (limit.passed()) {
      const std::string reached = limit.reached();
      throw FromPeer<TimeoutError>(str(reached, ": ", missing(pending)));
    }
    if (watch.next.passed()) look(watch, pending, limit);
    const Duration nap = grace && !grace->passed()
                             ? std::min<Duration>(limit.nap(), grace->remaining())
                             : limit.nap();
    if (pending.done()) {  // but badly: the reason may be on its way
      worker_.drain();
      pending.changed.wait_for(worker_.mutex(), std::min<Duration>(nap, kAskAgain));
    } else {
      worker_.await(pending, nap);
    }
  }
}

void UcxTransport::abort(const std::string& reason) noexcept {
  try {
    const MutexLock lock(worker_.mutex());
    if (!aborted_.empty()) return;
    aborted_ = reason.empty() ? "the group was aborted" : reason;
    any_gone_ = true;
    // A peer that ended the group has told everybody.
    if (aborted_by_peer_.empty() && self_.pid == ::getpid())
      for (int r = 0; r < size_ && !members_.empty(); ++r)
        if (r != rank_) worker_.post(r, NoteKind::aborted, reason);
    worker_.wake();
  } catch (const std::exception&) {
    // No memory for the note: the others will miss this rank.
  }
}

void UcxTransport::on_note(int from, NoteKind kind, std::string_view text) {
  const auto r = static_cast<size_t>(from);
  heard_[r] = Clock::now();
  if (kind == NoteKind::beat) return;
  any_gone_ = true;
  if (kind == NoteKind::left)
    left_[r] = true;
  else if (aborted_by_peer_.empty())
    aborted_by_peer_ = str(who(from), " ended the group: ", text);
}

void UcxTransport::on_lost(int peer, const std::string& why) {
  const auto r = static_cast<size_t>(peer);
  if (left_[r] || !lost_[r].empty()) return;
  lost_[r] = why;
  any_gone_ = true;
}

void UcxTransport::check_running() {
  const MutexLock lock(worker_.mutex());
  if (!any_gone_) return;
  throw_if_aborted();
  if (!aborted_by_peer_.empty()) throw FromPeer<EnvironmentError>(aborted_by_peer_);
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<size_t>(r);
    if (!lost_[i].empty()) throw FromPeer<EnvironmentError>(str(who(r), end_of(r), lost_[i]));
  }
}

void UcxTransport::throw_if_aborted() const {
  if (!aborted_.empty()) throw FromPeer<EnvironmentError>(aborted_);
}

std::string UcxTransport::ended_by_peer(const Pending& pending, bool grace_passed) const {
  if (!aborted_by_peer_.empty()) return grace_passed ? aborted_by_peer_ : "";
  std::vector<int> awaited = pending.unfinished_from();
  const auto to = pending.unfinished_to();
  awaited.insert(awaited.end(), to.begin(), to.end());
  const Request* failed = pending.first_failed();
  if (failed) awaited.push_back(failed->peer);
  for (const int r : awaited) {
    const auto i = static_cast<size_t>(r);
    if (left_[i] && grace_passed) return str(who(r), " left the group");
    // The connections of a process that dies go a moment before it does.
    const int pid = visible_pid(r);
    const bool dying = pid != 0 && look_at_process(pid) && !grace_passed;
    if (!lost_[i].empty() && !dying) return str(who(r), end_of(r), lost_[i]);
  }
  if (!failed || !grace_passed) return "";
  if (failed->status == UCS_ERR_MESSAGE_TRUNCATED)
    return str(who(failed->peer), " sent a message of another size than expected");
  return str("the exchange with ", who(failed->peer), " failed: ", text_of(failed->status));
}

// Where its process can be seen, that says what has happened.
std::string UcxTransport::end_of(int rank) const {
  const int pid = visible_pid(rank);
  if (pid == 0) return " died, or cannot be reached: ";
  return look_at_process(pid) ? " cannot be reached: " : " died: ";
}

std::string UcxTransport::who(int rank) const {
  return str("rank ", rank, " (", members_[static_cast<size_t>(rank)].who(), ")");
}

int UcxTransport::visible_pid(int rank) const {
  const Attendant& m = members_[static_cast<size_t>(rank)];
  return m.processes == self_.processes ? m.pid : 0;
}

void UcxTransport::look(Watch& watch, const Pending& pending, const Limit& limit) {
  watch.next = Deadline::after(kLookEvery);
  const auto now = Clock::now();
  auto late = pending.unfinished_from();
  if (late.empty()) late = pending.unfinished_to();
  for (const int rank : late) {
    const int pid = visible_pid(rank);
    const auto process = pid != 0 ? look_at_process(pid) : std::nullopt;
    // Where data goes through shared memory, no connection breaks.
    if (pid != 0 && !process) on_lost(rank, "its process has ended");
    if (!process || !process->stopped())
      watch.stopped_since.erase(rank);
    else if (limit.passed_for_stopped(now -
                                      watch.stopped_since.try_emplace(rank, now).first->second))
      throw FromPeer<TimeoutError>(str(limit.reached(), ": ", missing(pending)));
  }
  if (!late.empty() && now - watch.start >= say_after(said_missing_))
    say_who_is_late(watch, late, pending, limit);
}

void UcxTransport::say_who_is_late(const Watch&, const std::vector<int>& late,
                                   const Pending& pending, const Limit& limit) {
  const uint32_t said = said_missing_++;
  // Where all wait for the same ranks, the first of those that wait says it for all.
  const bool all_wait = pending.peers() + 1 == members_.size();
  int first_here = 0;
  while (std::count(late.begin(), late.end(), first_here) > 0) ++first_here;
  if (all_wait && first_here != rank_) return;
  const std::string text = missing(pending);
  log::warn("[comm] ", limit.what().empty() ? "a group that forms" : limit.what(),
            " is held up for ", seconds(say_after(said)), " s: ", text);
}

// "rank 2 (pid 71 on node5, stopped) has not arrived". Says of processes that it sees what they do.
std::string UcxTransport::missing(const Pending& pending) {
  const auto from = pending.unfinished_from(), to = pending.unfinished_to();
  const auto& late = from.empty() ? to : from;
  std::vector<int> pids;
  for (const int rank : late) pids.push_back(visible_pid(rank));
  std::vector<std::string> doing;
  {
    const MutexUnlock unlocked(worker_.mutex());  // it takes two looks, a moment apart
    doing = doings(pids);
  }
  std::string text;
  for (size_t i = 0; i < late.size(); ++i) {
    const bool known = pids[i] != 0 && doing[i] != "exists";
    text += str(i == 0 ? "" : ", ", "rank ", late[i], " (",
                members_[static_cast<size_t>(late[i])].who(), known ? ", " + doing[i] : "", ")");
  }
  if (from.empty()) return text + " took nothing of what was sent";
  return text + (from.size() == 1 ? " has not arrived" : " have not arrived");
}

void UcxTransport::keep() {
  const MutexLock lock(worker_.mutex());
  Deadline next = Deadline::after(kBeatEvery);
  while (!stop_) {
    try {
      if (next.passed()) {
        // This process was stopped itself, or had no core: it knows nothing of the others.
        if (Clock::now() - next.at() > kBeatEvery)
          std::fill(heard_.begin(), heard_.end(), Clock::now());
        next = Deadline::after(kBeatEvery);
        beat();
      }
      worker_.keep(next);
    } catch (const std::exception& e) {
      log::warn("[ucx] group '", name_, "': ", e.what());
      return;
    }
  }
}

void UcxTransport::beat() {
  if (!aborted_.empty()) return;
  const auto now = Clock::now();
  const std::array<int, 2> neighbours{(rank_ + 1) % size_, (rank_ + size_ - 1) % size_};
  for (const int r : neighbours) {
    worker_.post(r, NoteKind::beat, "");
    const auto i = static_cast<size_t>(r);
    // Of a process that is seen, the process itself says whether it lives.
    const bool seen = members_[i].network == self_.network && visible_pid(r) != 0;
    if (seen || now - heard_[i] < kSilenceLimit || left_[i]) continue;
    on_lost(r, str("nothing has come from it for ", seconds(kSilenceLimit),
                   " s; its host, its process or the network stands still"));
    worker_.wake();
  }
}

}  // namespace lockstep::comm::ucx
