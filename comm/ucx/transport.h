// Transport over UCX's tagged messages, for one group of ranks, and what the group's ranks learn of
// each other when one ends, dies or falls silent.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/engine/roll_call.h"
#include "comm/engine/transport.h"
#include "comm/ucx/worker.h"
#include "core/base/mutex.h"

namespace lockstep::comm::ucx {

// Ranks of other hosts that send nothing for this long count as lost.
inline constexpr Duration kSilenceLimit = std::chrono::seconds(8);

// What only the ranks of a group know (proof.h).
struct GroupSecret {
  uint64_t group = 0;  // equal on all ranks, and never twice
  std::string key = {};
  std::vector<std::string> numbers = {};  // by rank
};

// Thread-safe, as Transport demands.
class UcxTransport final : public Transport {
 public:
  // A rank that is not yet connected: others need its address() first.
  UcxTransport(int rank, int size, std::string name);
  // Tells the others that this rank has left.
  ~UcxTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& address() const { return worker_.address(); }
  const std::vector<Attendant>& members() const { return members_; }

  // `members` by rank; each says its address. Returns when every rank has heard from every other,
  // and each has shown that it knows the secret. Throws as exchange() does; UsageError where ranks
  // form different groups.
  void connect(GroupSecret secret, std::vector<Attendant> members, const Limit& limit);
  const std::string& key() const { return key_; }

  size_t most_to_ride_along() const override { return size_t{16} << 10; }
  void exchange(Channel channel, std::span<const Send> sends, std::span<const Receive> receives,
                const Limit& limit) override;

  // Throws if the group has ended, or if any rank has died or cannot be reached.
  void check_running();
  // Ends the group, here at once and for the others as soon as the network brings the word.
  void abort(const std::string& reason) noexcept;

 private:
  // What a wait that takes long has seen of the ranks that it waits for.
  struct Watch {
    Clock::time_point start = Clock::now();
    Deadline next = Deadline::after(std::chrono::milliseconds(250));
    std::map<int, Clock::time_point> stopped_since;  // by rank
  };
  void exchange_pieces(Channel channel, std::span<const Send> sends,
                       std::span<const Receive> receives, const Limit& limit);
  void complete(Pending& pending, const Limit& limit) LOCKSTEP_REQUIRES(worker_.mutex());
  void on_note(int from, NoteKind kind, std::string_view text);
  void on_lost(int peer, const std::string& why);
  void throw_if_aborted() const LOCKSTEP_REQUIRES(worker_.mutex());
  // Why this wait will not end, as far as other ranks are the cause; or empty, where there is no
  // reason, or what was sent before it may still come.
  std::string ended_by_peer(const Pending& pending, bool grace_passed) const
      LOCKSTEP_REQUIRES(worker_.mutex());
  std::string end_of(int rank) const;
  // Looks at the processes that this wait is for. Throws where one has been stopped for longer than
  // the limit allows; tells users that ranks are late.
  void look(Watch& watch, const Pending& pending, const Limit& limit)
      LOCKSTEP_REQUIRES(worker_.mutex());
  void say_who_is_late(const Watch& watch, const std::vector<int>& late, const Pending& pending,
                       const Limit& limit) LOCKSTEP_REQUIRES(worker_.mutex());
  std::string missing(const Pending& pending) LOCKSTEP_REQUIRES(worker_.mutex());
  std::string who(int rank) const;
  // The process, if this one can see it, else 0.
  int visible_pid(int rank) const;

  // The group's own thread: a sign of life to two neighbours each second, and a look at theirs.
  void keep();
  void beat() LOCKSTEP_REQUIRES(worker_.mutex());

  const int rank_;
  const int size_;
  const std::string name_;
  const Attendant self_;
  std::vector<Attendant> members_;  // constant once connected
  std::string key_;                 // likewise

  // The worker's mutex guards what follows.
  std::string aborted_;                   // by this rank: why
  std::string aborted_by_peer_;           // "rank 1 (…) ended the group: …"
  std::vector<bool> left_;                // by rank
  std::vector<std::string> lost_;         // by rank: why; empty: it is there
  bool any_gone_ = false;                 // something of that is set
  std::vector<Clock::time_point> heard_;  // by rank: the last sign of life
  uint32_t said_missing_ = 0;             // how often it was said that some are late
  bool stop_ = false;

  Worker worker_;  // calls back until it is destroyed, so it goes before what it tells
  std::thread keeper_;
};

}  // namespace lockstep::comm::ucx
