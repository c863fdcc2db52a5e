#include "checkpoint/replica/replica.h"

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <map>
#include <sstream>
#include <thread>
#include <utility>

#include "checkpoint/format/chunks.h"
#include "checkpoint/replica/replica_copy.h"
#include "checkpoint/replica/replica_memory.h"
#include "comm/peer_failure.h"
#include "comm/text.h"
#include "core/base/mutex.h"
#include "core/base/thread.h"

namespace lockstep::checkpoint {
namespace {

constexpr int kNone = -1;
constexpr int64_t kNothing = -1;  // stands for "no step"

// What all ranks hold. Each rank sends one line for each copy: "copy OWNER STEP", or "! reason" for
// an unusable copy.
struct Holdings {
  using Holders = std::vector<std::vector<int>>;  // by owner: the ranks that hold its part
  std::map<int64_t, Holders> by_step;
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
      size_t owner_end = 0;
      const size_t owner = std::stoul(rest, &owner_end);
      auto& holders = holdings.by_step[std::stoll(rest.substr(owner_end))];
      holders.resize(texts.size());
      holders.at(owner).push_back(static_cast<int>(rank));
    }
  }
  return holdings;
}

// The rank that sends the owner's part: the owner, if it has its own copy, else any holder.
int source_of(const Holdings::Holders& holders, int owner) {
  const auto& held = holders[static_cast<size_t>(owner)];
  return std::find(held.begin(), held.end(), owner) != held.end() ? owner : held.front();
}

std::string missing_text(int64_t step, const Holdings::Holders& holders) {
  std::string text;
  for (size_t owner = 0; owner < holders.size(); ++owner)
    if (holders[owner].empty())
      text += str(text.empty() ? str("of step ", step, ", the part of rank ") : ", ", owner);
  return text.empty() ? text : text + " is nowhere";
}

bool share_elements(const Part& a, const Part& b) {
  return a.name == b.name && overlap(a.shard, b.shard);
}

}  // namespace

BuddyDistance buddy_distance(const std::vector<int>& node_of) {
  const auto ranks = static_cast<int>(node_of.size());
  std::map<int, int> sizes;
  for (const int node : node_of) ++sizes[node];
  if (sizes.size() < 2) return {};
  for (int distance = 1; distance < ranks; ++distance) {
    bool apart = true;
    for (int r = 0; r < ranks; ++r)
      apart = apart && node_of[static_cast<size_t>(r)] !=
                           node_of[static_cast<size_t>((r + distance) % ranks)];
    if (apart) return {.distance = distance, .covers_nodes = true};
  }
  int largest = 0;
  for (const auto& [node, size] : sizes) largest = std::max(largest, size);
  return {.distance = largest, .covers_nodes = false};
}

class ReplicaStore::Impl {
 public:
  explicit Impl(const ReplicaOptions& options) : options_(options), memory_(options.file) {}
  ~Impl() { join(); }

  void prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group) {
    if (group_) group_->abort("replicas continue in a new group");
    join();
    pending_ = nullptr;
    const int size = group.size();
    check(options_.distance >= 0 && (options_.distance == 0 || options_.distance % size != 0),
          "[replica] the distance to the buddy is ", options_.distance,
          ", which must be above 0 and no multiple of the ", size, " ranks, or 0 for no buddies");
    group_ = group.host().split(0, group.rank());
    plan_ = std::make_unique<SavePlan>(plan_save(group_.get(), entries));
    layouts_.clear();
    int64_t largest = 0;
    for (int rank = 0; rank < size; ++rank) {
      layouts_.push_back(lay_out_copy(plan_->plan, rank, options_.identity));
      largest = std::max(largest, layouts_.back().bytes);
    }
    kept_.fill(false);
    cut_short_ = false;
    note_foreign_copies();
    const auto sames = comm::agree(group_.get(), [&] {
      // Without buddies, guest() is this rank itself.
      const int64_t own = layout_of(rank()).bytes, other = layout_of(guest()).bytes;
      memory_.reserve(with_buddies() ? 4 : 2, largest, std::max(own, other));
      return str("distance ", options_.distance, ", identity ", options_.identity);
    });
    for (size_t r = 1; r < sames.size(); ++r)
      check(sames[r] == sames[0], "[replica] rank 0 has ", sames[0], " and rank ", r, " has ",
            sames[r], "; give all ranks the same");
  }

  void start(int64_t step, const std::vector<Entry>& entries) {
    const auto begin = Clock::now();
    finish();
    const std::string problem = put_aside(step, entries);
    const Duration stall = Clock::now() - begin;
    const auto exchanged = [this, step, problem, begin, stall] {
      ReplicaOutcome outcome{.step = step, .error = {}, .stall = stall};
      try {
        exchange(step, problem);
      } catch (const std::exception& e) {
        outcome.error = e.what();
      }
      outcome.duration = Clock::now() - begin;
      const MutexLock lock(mutex_);
      ended_.push_back(std::move(outcome));
    };
    if (!with_buddies()) {  // nothing to send: waking a thread takes longer than
                            // the vote itself
      pending_ = exchanged;
      return;
    }
    try {
      thread_ = start_thread("to replicate in the background", exchanged);
    } catch (const EnvironmentError&) {  // then all ranks wait for this exchange
      exchanged();
    }
  }

  void store(int64_t step, const std::vector<Entry>& entries) {
    finish();
    exchange(step, put_aside(step, entries));
  }

  std::optional<ReplicaOutcome> poll() {
    const MutexLock lock(mutex_);
    if (ended_.empty()) return std::nullopt;
    ReplicaOutcome outcome = std::move(ended_.front());
    ended_.pop_front();
    return outcome;
  }

  // Collective. Finishes the exchange that start() began.
  void finish() {
    join();
    if (pending_) std::exchange(pending_, nullptr)();
  }

  ReplicasFound find() {
    finish();
    check(group_ != nullptr, "[replica] prepare() must come before find()");
    found_ = parse_holdings(comm::agree(group_.get(), [&] { return describe_held(); }));
    ReplicasFound found{.notes = found_.notes};
    for (auto at = found_.by_step.rbegin(); at != found_.by_step.rend() && found.step < 0; ++at) {
      const std::string missing = missing_text(at->first, at->second);
      if (missing.empty()) {
        found.step = at->first;
      } else {
        found.why_none += str(found.why_none.empty() ? "" : "; ", missing);
      }
    }
    found_step_ = found.step;
    if (found.step >= 0) found.why_none.clear();
    if (found.step < 0 && found.why_none.empty()) found.why_none = "no rank holds a copy";
    return found;
  }

  ReplicaRestored restore(const std::vector<Entry>& entries) {
    check(found_step_ >= 0, "[replica] restore() needs a find() that found a step");
    ReplicaRestored restored{.step = found_step_};
    keep_found();
    send_parts(entries, found_.by_step.at(found_step_), restored);
    store(restored.step, entries);
    found_step_ = -1;
    return restored;
  }

  void forget() {
    join();
    pending_ = nullptr;
    for (int copy = 0; copy < memory_.copies(); ++copy) memory_.break_seal(copy);
    kept_.fill(false);
    found_step_ = -1;
  }

 private:
  void join() {
    if (thread_.joinable()) thread_.join();
  }

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  bool with_buddies() const { return options_.distance > 0; }
  int buddy() const { return (rank() + options_.distance) % size(); }
  int guest() const {
    return (rank() + size() - options_.distance % size()) % size();
  }  // the rank whose buddy this one is
  const CopyLayout& layout_of(int owner) const { return layouts_[static_cast<size_t>(owner)]; }

  // Whether a copy belongs to this state, so that its layout is known.
  bool fits(const CopyLabel& label) const {
    return label.ranks == size() && label.owner >= 0 && label.owner < size() && label.step >= 0 &&
           label.layout == layout_of(static_cast<int>(label.owner)).digest &&
           label.bytes == layout_of(static_cast<int>(label.owner)).bytes;
  }

  void note_foreign_copies() {
    misfits_.clear();
    for (int copy = 0; copy < memory_.copies(); ++copy)
      if (const auto label = memory_.label(copy); label && !fits(*label))
        misfits_ += str("! its copy of step ", label->step, ", for rank ", label->owner, " of ",
                        label->ranks, ", is of another run, state or number of ranks\n");
  }

  std::string describe_held() {
    std::string text = misfits_;
    for (int copy = 0; copy < memory_.copies(); ++copy) {
      const auto label = memory_.label(copy);
      if (!label || !fits(*label)) continue;
      const int64_t damaged = memory_.view(copy, label->bytes).first_damaged_chunk();
      text += damaged < 0 ? str("copy ", label->owner, " ", label->step, "\n")
                          : str("! its copy of step ", label->step, " for rank ", label->owner,
                                " was changed in memory, in chunk ", damaged, "\n");
      if (damaged >= 0) memory_.break_seal(copy);
    }
    return text;
  }

  // Keeps the copies of the step that was found until it is stored again. They may be more than
  // half of all copies: ranks may have been renumbered before, and killed while they stored that
  // step again. Then keep only the copies that this rank sends; other ranks send the rest.
  void keep_found() {
    const Holdings::Holders& holders = found_.by_step.at(found_step_);
    std::map<int64_t, int> copies;  // by owner
    for (int copy = 0; copy < memory_.copies(); ++copy) {
      const auto label = memory_.label(copy);
      if (label && fits(*label) && label->step == found_step_) {
        copies[label->owner] = copy;
      } else {
        memory_.break_seal(copy);  // old copies of steps that will be stored again must
                                   // not be mixed with new ones
      }
    }
    kept_.fill(false);
    const bool too_many = static_cast<int>(copies.size()) > memory_.copies() / 2;
    for (const auto& [owner, copy] : copies)
      kept_[static_cast<size_t>(copy)] =
          !too_many || source_of(holders, static_cast<int>(owner)) == rank();
  }

  // Returns a copy that may be overwritten.
  int free_copy(int but = kNone) const {
    for (int copy = 0; copy < memory_.copies(); ++copy)
      if (!kept_[static_cast<size_t>(copy)] && copy != but) return copy;
    throw EnvironmentError("[replica] no copy is free");
  }

  CopyLabel label_for(int owner, int64_t step) const {
    return {.owner = owner,
            .ranks = size(),
            .step = step,
            .bytes = layout_of(owner).bytes,
            .layout = layout_of(owner).digest};
  }

  // Makes the copy that training waits for. Returns a problem as text; exchange() tells all ranks.
  std::string put_aside(int64_t step, const std::vector<Entry>& entries) {
    check(group_ != nullptr, "[replica] prepare() must come before the first step is stored");
    if (cut_short_)
      return "an earlier exchange was interrupted; its copies must stay unchanged until "
             "the ranks restart";
    try {
      own_ = free_copy();
      memory_.break_seal(own_);
      guest_ = with_buddies() ? free_copy(own_) : kNone;
      if (with_buddies()) memory_.break_seal(guest_);
      check(step >= 0, "the step must not be negative, got ", step);
      check(parts_text(checkpoint::parts_of(entries)) ==
                parts_text(plan_->held[static_cast<size_t>(rank())]),
            "names, shapes or shards are not those that were prepared; make a new ReplicaStore for "
            "another state");
      const CopyLayout& layout = layout_of(rank());
      memory_.view(own_, layout.bytes).fill(slices_of(entries, layout), layout);
      memory_.seal(own_, label_for(rank(), step));
      return {};
    } catch (const std::exception& e) {
      return e.what();
    }
  }

  // Collective. A copy counts once it is complete and verified, whatever follows; a restore finds
  // out which step is whole. A rank releases older copies when it knows that all ranks are done.
  // After an interrupted exchange, some ranks may know this, others not. So no rank may then touch
  // its newer copies either.
  void exchange(int64_t step, const std::string& problem) {
    try {
      if (cut_short_) throw EnvironmentError(problem);
      cut_short_ = true;
      const std::string swap_problem =
          with_buddies() ? swap_copies(problem.empty() ? step : kNothing) : "";
      vote(step, problem.empty() ? swap_problem : problem);
      kept_.fill(false);
      kept_[static_cast<size_t>(own_)] = true;
      if (with_buddies()) kept_[static_cast<size_t>(guest_)] = true;
    } catch (const std::exception& e) {
      std::rethrow_exception(
          comm::reworded(e, str("[replica] step ", step, " has no replicas: ", e.what())));
    }
  }

  // Throws on all ranks if steps differ or any rank has a problem. cut_short_ stays true until this
  // rank has heard from all ranks.
  void vote(int64_t step, const std::string& wrong) {
    const Tensor steps = Tensor::empty({size()}, DType::i64);
    group_
        ->all_gather(steps, Tensor::full({1}, static_cast<double>(wrong.empty() ? step : kNothing),
                                         DType::i64))
        .wait();
    const int64_t* of = steps.data<int64_t>();
    const bool equal =
        std::all_of(of, of + size(), [&](int64_t each) { return each == of[0] && each >= 0; });
    std::vector<std::string> reasons;
    if (!equal) reasons = comm::all_gather_text(*group_, wrong);
    cut_short_ = false;
    if (equal) return;
    std::string all;
    for (size_t r = 0; r < reasons.size(); ++r)
      if (!reasons[r].empty()) all += str(all.empty() ? "" : "; ", "rank ", r, ": ", reasons[r]);
    if (!all.empty()) throw EnvironmentError(all);
    for (int r = 1; r < size(); ++r)
      check(of[r] == of[0], "rank 0 stores step ", of[0], " and rank ", r, " step ", of[r]);
  }

  // Sends this rank's copy and its step to the buddy, and receives the guest's. Returns a problem
  // as text.
  std::string swap_copies(int64_t step) {
    const StateCopy own = memory_.view(own_, layout_of(rank()).bytes),
                    kept = memory_.view(guest_, layout_of(guest()).bytes);
    const auto with_step = [](const StateCopy& copy) {
      return Tensor::empty({1 + copy.sums.numel()}, DType::i64);
    };
    const Tensor out = with_step(own), in = with_step(kept);
    out.data<int64_t>()[0] = step;
    out.narrow(0, 1, own.sums.numel()).copy_(own.sums);
    const comm::Work sent = group_->send(out, buddy());
    group_->recv(in, guest()).wait();
    sent.wait();
    kept.sums.copy_(in.narrow(0, 1, kept.sums.numel()));
    exchange_bytes(*group_, own.data, buddy(), kept.data, guest());
    const int64_t guest_step = in.data<int64_t>()[0], damaged = kept.first_damaged_chunk();
    if (guest_step < 0) return str("rank ", guest(), " had no copy to send");
    if (damaged >= 0) return str("chunk ", damaged, " of rank ", guest(), "'s copy came damaged");
    memory_.seal(guest_, label_for(guest(), guest_step));
    return {};
  }

  bool holds_part_of(int rank, const CopyLayout& layout) const {
    const auto& held = plan_->held[static_cast<size_t>(rank)];
    return std::any_of(layout.parts.begin(), layout.parts.end(), [&](const auto& placed) {
      return std::any_of(held.begin(), held.end(),
                         [&](const Part& part) { return share_elements(placed.part, part); });
    });
  }

  StateCopy copy_of(int owner, int64_t step) const {
    for (int copy = 0; copy < memory_.copies(); ++copy)
      if (const auto label = memory_.label(copy);
          label && fits(*label) && label->owner == owner && label->step == step)
        return memory_.view(copy, label->bytes);
    throw EnvironmentError(
        str("[replica] the copy of step ", step, " for rank ", owner, " was changed in memory"));
  }

  // Sends every rank's part from one holder to all ranks that need some of it. All ranks go in the
  // same order, so they cannot wait for each other in a circle.
  void send_parts(const std::vector<Entry>& entries, const Holdings::Holders& holders,
                  ReplicaRestored& restored) {
    CopyReader reader(entries);
    std::string damage;
    for (int owner = 0; owner < size(); ++owner) {
      const CopyLayout& layout = layout_of(owner);
      const int source = source_of(holders, owner);
      if (source != owner) restored.from_others.push_back(owner);
      for (int to = 0; to < size(); ++to) {
        if ((rank() != source && rank() != to) || !holds_part_of(to, layout)) continue;
        if (source == to) {
          reader.take(layout, 0, copy_of(owner, restored.step).data.raw(),
                      layout.bytes);  // verified when it was announced
        } else if (rank() == source) {
          send_copy(*group_, copy_of(owner, restored.step), to);
        } else {
          const int64_t damaged = receive_copy(*group_, layout, source, reader);
          if (damaged >= 0)
            damage = str("chunk ", damaged, " of rank ", owner, "'s part came damaged from rank ",
                         source);
          restored.received_bytes += layout.bytes;
        }
      }
    }
    reader.finish();
    comm::agree(group_.get(), [&] {
      if (!damage.empty())
        throw EnvironmentError(
            str("[replica] step ", restored.step, " was not restored: ", damage));
      return std::string();
    });
  }

  const ReplicaOptions options_;
  std::unique_ptr<comm::ProcessGroup> group_;  // used for replicas alone
  std::unique_ptr<SavePlan> plan_;
  std::vector<CopyLayout> layouts_;  // by owner
  std::string misfits_;              // lines about unusable copies that prepare() found

  ReplicaMemory memory_;  // belongs to the thread while it runs, as do the next four
  std::array<bool, ReplicaMemory::kMostCopies>
      kept_{};              // copies of the last step that is whole on all ranks
  bool cut_short_ = false;  // an exchange stopped half-way: unknown which copies are in place
  int own_ = kNone, guest_ = kNone;  // the copies of the current exchange

  Holdings found_;
  int64_t found_step_ = -1;
  std::thread thread_;             // runs an exchange with buddies
  std::function<void()> pending_;  // the rest of an exchange without buddies
  Mutex mutex_;
  std::deque<ReplicaOutcome> ended_ LOCKSTEP_GUARDED_BY(mutex_);
};

ReplicaStore::ReplicaStore(const ReplicaOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}
ReplicaStore::~ReplicaStore() = default;
void ReplicaStore::prepare(const std::vector<Entry>& entries, comm::ProcessGroup& group) {
  impl_->prepare(entries, group);
}
void ReplicaStore::start(int64_t step, const std::vector<Entry>& entries) {
  impl_->start(step, entries);
}
void ReplicaStore::store(int64_t step, const std::vector<Entry>& entries) {
  impl_->store(step, entries);
}
std::optional<ReplicaOutcome> ReplicaStore::poll() { return impl_->poll(); }
std::optional<ReplicaOutcome> ReplicaStore::wait() {
  impl_->finish();
  return impl_->poll();
}
ReplicasFound ReplicaStore::find() { return impl_->find(); }
ReplicaRestored ReplicaStore::restore(const std::vector<Entry>& entries) {
  return impl_->restore(entries);
}
void ReplicaStore::forget() { impl_->forget(); }

}  // namespace lockstep::checkpoint
