#include "checkpoint/replica.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "checkpoint/chunks.h"
#include "checkpoint/host_copy.h"
#include "checkpoint/replica_copy.h"
#include "comm/peer_failure.h"
#include "comm/text.h"

namespace lockstep::checkpoint {
namespace {

// What the ranks hold, as they tell each other: a line "own STEP", "guest STEP" or "! reason" for each copy.
struct Holdings {
  struct Of {
    bool own = false, guest = false;  // guest: the copy of the rank whose buddy this one is
  };
  std::map<int64_t, std::vector<Of>> by_step;
  std::vector<std::string> notes;
};

Holdings parse_holdings(const std::vector<std::string>& texts) {
  Holdings holdings;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    std::istringstream lines(texts[rank]);
    for (std::string kind, rest; lines >> kind && std::getline(lines >> std::ws, rest);) {
      if (kind == "!") {
        holdings.notes.push_back(str("rank ", rank, ": ", rest));
        continue;
      }
      auto& held = holdings.by_step[std::stoll(rest)];
      held.resize(texts.size());
      (kind == "own" ? held[rank].own : held[rank].guest) = true;
    }
  }
  return holdings;
}

}  // namespace

class ReplicaStore::Impl {
 public:
  explicit Impl(const ReplicaOptions& options) : options_(options) {}
  ~Impl() {
    if (thread_.joinable()) thread_.join();
  }

  void prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group) {
    join();
    const int size = group.size();
    check(size > 1, "[replica] a rank alone has no buddy to keep a replica: save checkpoints, or run with two ranks or more");
    check(options_.distance > 0 && options_.distance % size != 0, "[replica] the distance to the buddy is ", options_.distance,
          ", which must be above 0 and no multiple of the ", size, " ranks");
    group_ = group.split(0, group.rank());
    plan_ = std::make_unique<SavePlan>(plan_save(group_.get(), entries));
    layouts_.clear();
    for (int rank = 0; rank < size; ++rank) layouts_.push_back(lay_out_copy(plan_->plan, rank));
    misfits_.clear();
    const auto distances = comm::agree(group_.get(), [&] {
      for (Slot& slot : slots_) {
        fit(slot.own, own_layout(), "own");
        fit(slot.guest, guest_layout(), "guest");
      }
      return std::to_string(options_.distance);
    });
    for (size_t r = 1; r < distances.size(); ++r)
      check(distances[r] == distances[0], "[replica] the distance to the buddy is ", distances[0], " on rank 0 and ", distances[r],
            " on rank ", r, "; give all ranks the same");
  }

  void start(int64_t step, const std::vector<Entry>& entries) {
    const auto begin = Clock::now();
    join();
    const std::string problem = put_aside(step, entries);
    const Duration stall = Clock::now() - begin;
    thread_ = std::thread([this, step, problem, begin, stall] {
      ReplicaOutcome outcome{.step = step, .error = {}, .stall = stall};
      try {
        exchange(step, problem);
      } catch (const std::exception& e) {
        outcome.error = e.what();
      }
      outcome.duration = Clock::now() - begin;
      const std::lock_guard lock(mutex_);
      ended_.push_back(std::move(outcome));
    });
  }

  void store(int64_t step, const std::vector<Entry>& entries) {
    join();
    const std::string problem = put_aside(step, entries);
    exchange(step, problem);
  }

  std::optional<ReplicaOutcome> poll() {
    const std::lock_guard lock(mutex_);
    if (ended_.empty()) return std::nullopt;
    ReplicaOutcome outcome = std::move(ended_.front());
    ended_.pop_front();
    return outcome;
  }

  void join() {
    if (thread_.joinable()) thread_.join();
  }

  ReplicaRestored restore(const std::vector<Entry>& entries, comm::ProcessGroup& group) {
    if (group_) group_->abort("the state is restored in a new group");
    prepare(entries, group);
    const Holdings holdings = parse_holdings(comm::agree(group_.get(), [&] { return describe_held(); }));
    ReplicaRestored restored{.step = newest_whole(holdings), .from_buddies = {}, .notes = holdings.notes};
    keep_only(restored.step);
    fill(entries, holdings.by_step.at(restored.step), restored);
    store(restored.step, entries);
    return restored;
  }

 private:
  struct Slot {
    StateCopy own, guest;
  };

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  int buddy_of(int rank) const { return (rank + options_.distance) % size(); }
  int guest_of(int rank) const { return (rank + size() - options_.distance % size()) % size(); }
  const CopyLayout& own_layout() const { return layouts_[static_cast<size_t>(rank())]; }
  const CopyLayout& guest_layout() const { return layouts_[static_cast<size_t>(guest_of(rank()))]; }

  void fit(StateCopy& copy, const CopyLayout& layout, std::string_view kind) {
    if (copy.holds_something() && copy.layout != layout.digest)
      misfits_ += str("! its ", kind, " copy of step ", copy.step, " is of another rank, number of ranks or state\n");
    copy.fit(layout);
  }

  // The copy that training waits for. What is wrong, the other ranks must hear of: in the exchange.
  std::string put_aside(int64_t step, const std::vector<Entry>& entries) {
    check(group_ != nullptr, "[replica] prepare() must come before the first step is stored");
    Slot& slot = slots_[next_];
    slot.own.step = slot.guest.step = StateCopy::kNothing;
    try {
      check(step >= 0, "the step must not be negative, got ", step);
      check(parts_text(checkpoint::parts_of(entries)) == parts_text(plan_->held[static_cast<size_t>(rank())]),
            "names, shapes or shards are not those that were prepared; make a new ReplicaStore for another state");
      copy_to_host(slices_of(entries, own_layout()), views_of(slot.own, own_layout()));
      return {};
    } catch (const std::exception& e) {
      return e.what();
    }
  }

  // Collective. A copy counts once it is complete and proved, whatever becomes of the exchange after that: which step is whole, the
  // ranks find out when they restore. That all have heard of all, is what lets the older copies go.
  void exchange(int64_t step, const std::string& problem) {
    Slot& slot = slots_[next_];
    try {
      const auto steps = comm::agree(group_.get(), [&] {
        check(problem.empty(), problem);
        return std::to_string(step);
      });
      for (size_t r = 1; r < steps.size(); ++r)
        check(steps[r] == steps[0], "rank 0 stores step ", steps[0], " and rank ", r, " step ", steps[r]);
      slot.own.compute_sums();
      slot.own.step = step;
      const int to = buddy_of(rank()), from = guest_of(rank());
      const comm::Work sent = group_->send(slot.own.sums, to);
      group_->recv(slot.guest.sums, from).wait();
      sent.wait();
      exchange_bytes(*group_, slot.own.data, to, slot.guest.data, from);
      comm::agree(group_.get(), [&] {
        const int64_t damaged = slot.guest.first_damaged_chunk();
        if (damaged >= 0) throw EnvironmentError(str("chunk ", damaged, " of rank ", from, "'s copy came damaged"));
        slot.guest.step = step;
        return std::string();
      });
      next_ = 1 - next_;
    } catch (const std::exception& e) {
      std::rethrow_exception(comm::reworded(e, str("[replica] step ", step, " has no replicas: ", e.what())));
    }
  }

  std::string describe_held() {
    std::string text = misfits_;
    const auto describe = [&](StateCopy& copy, std::string_view kind) {
      if (!copy.holds_something()) return;
      const int64_t damaged = copy.first_damaged_chunk();
      text += damaged < 0 ? str(kind, " ", copy.step, "\n")
                          : str("! its ", kind, " copy of step ", copy.step, " was changed in memory, in chunk ", damaged, "\n");
      if (damaged >= 0) copy.step = StateCopy::kNothing;
    };
    for (Slot& slot : slots_) {
      describe(slot.own, "own");
      describe(slot.guest, "guest");
    }
    return text;
  }

  bool with_buddy(const std::vector<Holdings::Of>& held, int rank) const { return held[static_cast<size_t>(buddy_of(rank))].guest; }

  // Pure: every rank comes to the same, or throws the same.
  int64_t newest_whole(const Holdings& holdings) const {
    std::string why;
    for (auto at = holdings.by_step.rbegin(); at != holdings.by_step.rend(); ++at) {
      std::string nowhere;
      for (int r = 0; r < size(); ++r)
        if (!at->second[static_cast<size_t>(r)].own && !with_buddy(at->second, r))
          nowhere +=
              str(nowhere.empty() ? "" : ", ", "rank ", r, "'s part is held neither by rank ", r, " nor by its buddy, rank ", buddy_of(r));
      if (nowhere.empty()) return at->first;
      why += str(why.empty() ? "" : "; ", "of step ", at->first, ", ", nowhere);
    }
    for (const std::string& note : holdings.notes) why += str(why.empty() ? "" : "; ", note);
    throw EnvironmentError(str("[replica] no step can be restored from memory: ", why.empty() ? "no rank holds a copy" : why,
                               "; restore from disk: `--resume auto` takes the newest good checkpoint"));
  }

  // Moves the copies of that step into one slot and frees the other. Later steps will come anew, and must not meet what is left of
  // their first time.
  void keep_only(int64_t step) {
    const auto keep = [&](StateCopy& kept, StateCopy& other) {
      if (kept.step != step && other.step == step) std::swap(kept, other);
      if (kept.step != step) kept.step = StateCopy::kNothing;
      other.step = StateCopy::kNothing;
    };
    keep(slots_[0].own, slots_[1].own);
    keep(slots_[0].guest, slots_[1].guest);
    next_ = 1;
  }

  bool holds_part_of(int rank, const CopyLayout& layout) const {
    const auto& held = plan_->held[static_cast<size_t>(rank)];
    const auto overlaps = [](const Part& a, const Part& b) {
      return a.name == b.name && a.shard.offset < b.shard.offset + b.shard.length && b.shard.offset < a.shard.offset + a.shard.length;
    };
    return std::any_of(layout.parts.begin(), layout.parts.end(), [&](const auto& placed) {
      return std::any_of(held.begin(), held.end(), [&](const Part& part) { return overlaps(placed.part, part); });
    });
  }

  // Every rank's part goes from who has it to all that hold anything of it: in one order on all ranks, so that nobody waits in a circle.
  void fill(const std::vector<Entry>& entries, const std::vector<Holdings::Of>& held, ReplicaRestored& restored) {
    CopyReader reader(entries);
    std::string damage;
    for (int owner = 0; owner < size(); ++owner) {
      const CopyLayout& layout = layouts_[static_cast<size_t>(owner)];
      const bool own = held[static_cast<size_t>(owner)].own;
      const int source = own ? owner : buddy_of(owner);
      const StateCopy& copy = own ? slots_[0].own : slots_[0].guest;  // keep_only() put it there; the source's counts
      if (!own) restored.from_buddies.push_back(owner);
      for (int to = 0; to < size(); ++to) {
        if ((rank() != source && rank() != to) || !holds_part_of(to, layout)) continue;
        if (source == to) {
          reader.take(layout, 0, copy.data.raw(), copy.data.bytes());  // proved when it was announced
        } else if (rank() == source) {
          send_copy(*group_, copy, to);
        } else {
          const int64_t damaged = receive_copy(*group_, layout, source, reader);
          if (damaged >= 0) damage = str("chunk ", damaged, " of rank ", owner, "'s part came damaged from rank ", source);
          restored.received_bytes += layout.bytes;
        }
      }
    }
    reader.finish();
    comm::agree(group_.get(), [&] {
      if (!damage.empty()) throw EnvironmentError(str("[replica] step ", restored.step, " was not restored: ", damage));
      return std::string();
    });
  }

  const ReplicaOptions options_;
  std::unique_ptr<comm::ProcessGroup> group_;  // of its own
  std::unique_ptr<SavePlan> plan_;
  std::vector<CopyLayout> layouts_;  // by rank
  std::string misfits_;              // lines about copies that prepare() could not keep
  std::array<Slot, 2> slots_;        // the thread's while it runs
  size_t next_ = 0;                  // the slot of the next exchange; the other one holds the last whole step
  std::thread thread_;
  std::mutex mutex_;  // guards what follows
  std::deque<ReplicaOutcome> ended_;
};

ReplicaStore::ReplicaStore(const ReplicaOptions& options) : impl_(std::make_unique<Impl>(options)) {}
ReplicaStore::~ReplicaStore() = default;
void ReplicaStore::prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group) { impl_->prepare(entries, group); }
void ReplicaStore::start(int64_t step, const std::vector<Entry>& entries) { impl_->start(step, entries); }
void ReplicaStore::store(int64_t step, const std::vector<Entry>& entries) { impl_->store(step, entries); }
std::optional<ReplicaOutcome> ReplicaStore::poll() { return impl_->poll(); }
std::optional<ReplicaOutcome> ReplicaStore::wait() {
  impl_->join();
  return impl_->poll();
}
ReplicaRestored ReplicaStore::restore(const std::vector<Entry>& entries, comm::ProcessGroup& group) {
  return impl_->restore(entries, group);
}

}  // namespace lockstep::checkpoint
