// Transport over MPI's send and receive, for one group of ranks, and the notes by which these ranks
// tell each other that the group ends.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "comm/engine/transport.h"
#include "comm/mpi/pending.h"
#include "comm/mpi/runtime.h"
#include "core/base/mutex.h"

namespace lockstep::comm::mpi {

// Thread-safe, as Transport demands.
class MpiTransport final : public Transport {
 public:
  // `members`: the group's ranks as ranks of the job, in the group's order. All members pass the
  // same `context`.
  MpiTransport(Runtime& runtime, int context, std::vector<int> members);
  // Tells the others that this rank has left.
  ~MpiTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  int context() const { return context_; }
  int world_rank(int rank) const { return members_[static_cast<size_t>(rank)]; }
  Runtime& runtime() const { return runtime_; }

  void exchange(Channel channel, std::span<const Send> sends, std::span<const Receive> receives,
                const Limit& limit) override;

  // Waits for all requests. Throws as exchange() does, after telling the other ranks why.
  void complete(Pending& pending, const Limit& limit);

  // Throws if the group has ended. mpirun ends the job if a rank dies.
  void check_running();
  // Ends the group: here at once, and for the other ranks as soon as they look.
  void abort(const std::string& reason) noexcept;

 private:
  int tag(Channel channel) const { return context_ * kTagsPerContext + static_cast<int>(channel); }
  int note_tag() const { return context_ * kTagsPerContext + kTagsPerContext - 1; }
  void tell_others(char kind, const std::string& text);
  void read_notes();  // call this under runtime().locked()
  void throw_if_aborted() const;
  void throw_if_ended_by_peer() const;
  // Why a peer's note ends this wait; empty if none does.
  std::string ended_by_peer(const Pending& pending) const LOCKSTEP_REQUIRES(state_mutex_);
  std::string who(const std::vector<int>& world_ranks) const;
  int place_of(int world_rank) const;
  // What a long wait has observed of the ranks that it waits for.
  struct Watch {
    Clock::time_point start = Clock::now();
    Deadline next = Deadline::after(std::chrono::seconds(1));
    std::map<int, Clock::time_point> stopped_since;  // by rank of the job
  };
  // Throws if a rank has been stopped for longer than the limit allows. Logs which ranks are
  // late.
  void look(Watch& watch, const Pending& pending, const Limit& limit);
  std::string missing(const Pending& pending) const;

  Runtime& runtime_;
  const int context_;
  const std::vector<int> members_;
  int rank_ = -1;

  std::atomic<bool> ended_{false};  // whether any of the members below is set
  mutable Mutex state_mutex_;
  std::string aborted_ LOCKSTEP_GUARDED_BY(state_mutex_);  // the reason, if this rank aborted
  // "rank 1 (…) ended the group: …".
  std::string aborted_by_peer_ LOCKSTEP_GUARDED_BY(state_mutex_);
  std::vector<int> left_ LOCKSTEP_GUARDED_BY(state_mutex_);  // ranks of the job
  std::atomic<uint32_t> said_missing_{0};                    // how often late ranks were reported
};

// All ranks of `parent` call this in the same order. Returns the context for a new group, or for
// several groups without common ranks. Throws UsageError if the names differ.
int agree_on_context(MpiTransport& parent, const std::string& name, const Limit& limit);

}  // namespace lockstep::comm::mpi
