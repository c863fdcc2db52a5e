#include "comm/shm/collectives.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/base/log.h"

namespace lockstep::comm::shm {
namespace {

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, bytes);
}

// The size in bytes from which a tensor in shared memory is used in place
// (docs/experiments/shared-memory.md). Below it, copying to a slot is cheaper than making the owner
// wait for its readers. A broadcast root never waits. In an all_reduce all ranks wait for each
// other anyway.
size_t in_place_from(Op op) {
  switch (op) {
    case Op::all_reduce: return static_cast<size_t>(kSinglePassBytes) + 1;
    case Op::broadcast: return std::numeric_limits<size_t>::max();
    default: return 1 << 20;
  }
}

}  // namespace

// One call, as one rank executes it.
class Collectives::Run {
 public:
  Run(Collectives& owner, const Call& call)
      : owner_(owner),
        group_(owner.group_),
        call_(call),
        rank_(group_.rank()),
        size_(group_.size()),
        element_(size_of(call.dtype)),
        first_(owner.step_),
        single_pass_(call.op == Op::all_reduce && call.bytes() <= kSinglePassBytes),
        chunk_(chunk_elements()),
        tensors_(static_cast<size_t>(size_), nullptr) {}

  void run() {
    const bool in_place = announce();
    try {
      go_through_steps(in_place);
      check_tensors_of_others();
    } catch (const std::exception& e) {
      if (in_place) take_back(e.what());
      throw;
    }
  }

 private:
  void go_through_steps(bool in_place) {
    const bool staging = offers(rank_) && !in_place;
    // A rank that stages already knows that the call runs in chunks, so it starts before it meets
    // the others.
    uint32_t staged = 0;
    do {
      if (staging) stage_step(staged);
      publish(&Member::staged, staged++);
    } while (staging && staged < std::min(steps(), kAhead));
    await_all(&Member::staged, 0);
    meet();
    if (!staging) publish(&Member::staged, (staged = steps()) - 1);

    uint32_t collected = 0;
    for (uint32_t k = 0; k < steps(); ++k) {
      for (; staged < std::min(steps(), k + 1 + kAhead); ++staged) {
        stage_step(staged);
        publish(&Member::staged, staged);
      }
      await_all(&Member::staged, k);
      consume(k);
      publish(&Member::read, k);
      // Collect a few steps later, when the others' sums have probably arrived.
      if (k >= kAhead) collect(collected++);
    }
    while (collected < steps()) collect(collected++);
    // Other ranks read or write this rank's tensor directly.
    if (in_place) await_all(&Member::read, steps() - 1);
    owner_.step_ = first_ + steps();
  }

  // Returns the tensor to the caller after a failure, although other ranks may still use it for any
  // length of time. First end the group, then withdraw the memory: a rank that used the tensor in
  // between checks afterwards whether the group has ended.
  void take_back(const std::string& reason) {
    group_.abort(str("[comm] ", call_.what(), ": ", reason));
    try {
      owner_.arena_->withdraw(call_.in);
    } catch (const EnvironmentError& e) {
      log::warn("[comm] ", call_.what(),
                ": the other ranks may still write to its tensor: ", e.what());
    }
  }
  // A rank that gave up has its tensor back, so whatever was read from it is invalid.
  void check_tensors_of_others() const {
    for (int r = 0; r < size_; ++r)
      if (r != rank_ && tensors_[static_cast<size_t>(r)]) return group_.check_not_aborted();
  }

  // The elements of one step: [begin, begin + size) of the call's n elements.
  struct Chunk {
    int64_t begin, size;
  };
  Chunk chunk(uint32_t k) const {
    const int64_t begin = k * chunk_;
    return {begin, std::min(chunk_, call_.count - begin)};
  }
  uint32_t steps() const {
    return static_cast<uint32_t>(std::max<int64_t>(1, (call_.count + chunk_ - 1) / chunk_));
  }
  // If each rank has a separate slice for each other rank, all slices of a step share one
  // slot.
  int64_t chunk_elements() const {
    const auto slot = static_cast<int64_t>(kChunkBytes);
    const int64_t elements = slot / element_ / (slices_for_all() ? size_ : 1);
    return elements >= 64 ? elements / 64 * 64 : std::max<int64_t>(1, elements);
  }

  bool slices_for_all() const {
    return call_.op == Op::reduce_scatter || call_.op == Op::scatter || call_.op == Op::all_to_all;
  }
  bool is_root() const { return call_.root == rank_; }
  // Whether other ranks need data from `rank`.
  bool offers(int rank) const {
    switch (call_.op) {
      case Op::barrier: return false;
      case Op::broadcast:
      case Op::scatter: return rank == call_.root;
      case Op::gather: return rank != call_.root;
      default: return true;
    }
  }
  // The elements of a chunk that `rank` reduces.
  Range part(int64_t n, int rank) const {
    return single_pass_ ? Range{0, n} : part_of(n, size_, rank);
  }
  // Whether `rank` receives sums that other ranks have made.
  bool collects(int rank) const {
    return (call_.op == Op::all_reduce && !single_pass_) ||
           (call_.op == Op::reduce && rank == call_.root);
  }

  size_t bytes(int64_t elements) const { return static_cast<size_t>(elements * element_); }
  const std::byte* in(int64_t element) const {
    return static_cast<const std::byte*>(call_.in) + element * element_;
  }
  std::byte* out(int64_t element) const {
    return static_cast<std::byte*>(call_.out) + element * element_;
  }
  std::byte* stage(int rank, uint32_t k, int64_t element) const {
    return group_.stage(rank, first_ + k) + element * element_;
  }
  std::byte* result(int rank, uint32_t k, int64_t element) const {
    return group_.result(rank, first_ + k) + element * element_;
  }
  // Another rank's tensor if this rank can access it directly, else null.
  std::byte* tensor(int rank, int64_t element) const {
    std::byte* const data = tensors_[static_cast<size_t>(rank)];
    return data ? data + element * element_ : nullptr;
  }
  // What `peer` offers for chunk k, starting at `element` of the chunk. `slice` selects one of
  // several slices.
  const std::byte* offered(int peer, uint32_t k, int64_t element, int64_t slice = 0) const {
    if (const std::byte* data = tensor(peer, slice * call_.count + chunk(k).begin + element))
      return data;
    return stage(peer, k, slice * chunk_ + element);
  }
  // Calls f(peer) for all others, starting after this rank, so the ranks do not all read from the
  // same peer first.
  template <typename F>
  void for_peers(F f) const {
    for (int i = 1; i < size_; ++i) f((rank_ + i) % size_);
  }

  // The value of a word once step k is done.
  uint32_t done(uint32_t k) const { return static_cast<uint32_t>(first_ + k + 1); }
  void publish(Word Member::*word, uint32_t k) { (group_.member(rank_).*word).publish(done(k)); }
  void await_all(Word Member::*word, uint32_t k) {
    for_peers([&](int peer) { group_.await(group_.member(peer).*word, done(k), peer, call_); });
  }
  Notice& notice_of(int rank) {
    return group_.member(rank).notices[call_.fingerprint.sequence % 2];
  }

  // Publishes this rank's call and data location. Returns whether others can read it in place.
  bool announce() {
    Notice& notice = notice_of(rank_);
    const int64_t elements = slices_for_all() ? size_ * call_.count : call_.count;
    notice.call = call_.fingerprint;
    notice.in = offers(rank_) && bytes(elements) >= in_place_from(call_.op)
                    ? owner_.arena_->find(call_.in, bytes(elements))
                    : Location{};
    notice.retired = owner_.arena_->retired();
    return notice.in.id != 0;
  }

  // All ranks have arrived and published their calls. If all data can be read in place, the call is
  // a single step.
  void meet() {
    std::vector<Fingerprint> calls;
    for (int r = 0; r < size_; ++r) calls.push_back(notice_of(r).call);
    check_equal(calls);
    bool direct = true, any = false;
    for (int r = 0; r < size_; ++r) {
      const Notice& notice = notice_of(r);
      if (!offers(r)) continue;
      any = true;
      direct = direct && notice.in.id != 0;
      if (notice.in.id == 0) continue;
      tensors_[static_cast<size_t>(r)] =
          r == rank_
              ? static_cast<std::byte*>(const_cast<void*>(call_.in))
              : owner_.peer_maps_.resolve(r, group_.member(r).pid, notice.retired, notice.in);
    }
    check_tensors_of_others();  // else there is no point in starting
    if (direct && any) chunk_ = std::max<int64_t>(1, call_.count);
  }

  void stage_step(uint32_t k) {
    // Wait for the slot's last readers. (kAhead explains why sums need no such wait.)
    for_peers([&](int peer) {
      group_.await(group_.member(peer).read, done(k) - group_.slots(), peer, call_);
    });
    const auto [begin, n] = chunk(k);
    switch (call_.op) {
      case Op::all_reduce:
      case Op::reduce:
        if (single_pass_) return owner_.writer_.copy(stage(rank_, k, 0), in(begin), bytes(n));
        return for_peers([&, begin = begin, n = n](int peer) {
          const Range theirs = part(n, peer);
          owner_.writer_.copy(stage(rank_, k, theirs.begin), in(begin + theirs.begin),
                              bytes(theirs.size()));
        });
      case Op::reduce_scatter:
      case Op::scatter:
      case Op::all_to_all:
        return for_peers([&, begin = begin, n = n](int peer) {
          owner_.writer_.copy(stage(rank_, k, peer * chunk_), in(peer * call_.count + begin),
                              bytes(n));
        });
      default: return owner_.writer_.copy(stage(rank_, k, 0), in(begin), bytes(n));
    }
  }

  // Sums the data of all ranks, read from `own` (this rank) and `peer_source(r)`, into `outs`.
  template <typename F>
  void sum(const std::byte* own, F peer_source, std::span<void* const> outs, int64_t n) const {
    std::vector<const void*> sources(static_cast<size_t>(size_));
    sources[static_cast<size_t>(rank_)] = own;
    for_peers([&](int peer) { sources[static_cast<size_t>(peer)] = peer_source(peer); });
    reduce_in_order(call_.dtype, call_.reduce_op, call_.tree->steps(), sources, outs, n);
  }

  // Sums this rank's part of a chunk into its own tensor, into reachable tensors of other ranks,
  // and into the slot from which the rest collect it.
  void sum_part(uint32_t k) {
    const auto [begin, n] = chunk(k);
    const Range mine = part(n, rank_);
    std::vector<void*> outs;
    if (call_.op == Op::all_reduce || is_root()) outs.push_back(out(begin + mine.begin));
    bool to_slot = false;
    for_peers([&, begin = begin](int peer) {
      if (!collects(peer)) return;
      if (std::byte* const theirs = tensor(peer, begin + mine.begin))
        outs.push_back(theirs);
      else
        to_slot = true;
    });
    std::byte* const slot = result(rank_, k, mine.begin);
    // Fill the slot in the same pass, or copy to it afterwards, which may bypass the caches. (Ranks
    // that share cores are interrupted while they copy, so their measurements do not tell which way
    // is faster.)
    const bool same_pass = group_.own_cores() && owner_.writer_.plain_stores_pay();
    const bool copy_to_slot = to_slot && !outs.empty() && !same_pass;
    if (outs.empty() || (to_slot && !copy_to_slot)) outs.push_back(slot);
    sum(
        in(begin + mine.begin), [&](int peer) { return offered(peer, k, mine.begin); }, outs,
        mine.size());
    if (copy_to_slot) owner_.writer_.copy(slot, outs[0], bytes(mine.size()));
  }

  void consume(uint32_t k) {
    const auto [begin, n] = chunk(k);
    // Copies this rank's own slice, unless input and output coincide, and the slices of all others.
    const auto take = [&, begin = begin, n = n](int64_t own, int64_t slice) {
      copy_bytes(out(rank_ * call_.count + begin), in(own * call_.count + begin), bytes(n));
      for_peers([&](int peer) {
        copy_bytes(out(peer * call_.count + begin), offered(peer, k, 0, slice), bytes(n));
      });
    };
    switch (call_.op) {
      case Op::all_reduce:
      case Op::reduce: return sum_part(k);
      case Op::reduce_scatter: {
        void* const target = out(begin);
        return sum(
            in(rank_ * call_.count + begin), [&](int peer) { return offered(peer, k, 0, rank_); },
            {&target, 1}, n);
      }
      case Op::all_gather: return take(0, 0);
      case Op::all_to_all: return take(rank_, rank_);
      case Op::gather: return is_root() ? take(0, 0) : void();
      case Op::broadcast:
        return is_root() ? void() : copy_bytes(out(begin), offered(call_.root, k, 0), bytes(n));
      case Op::scatter:
        return copy_bytes(
            out(begin),
            is_root() ? in(rank_ * call_.count + begin) : offered(call_.root, k, 0, rank_),
            bytes(n));
      default: return;
    }
  }

  // Copies the sums that other ranks made, unless they wrote them into this tensor already.
  void collect(uint32_t k) {
    if (!collects(rank_) || tensor(rank_, 0)) return;
    const auto [begin, n] = chunk(k);
    for_peers([&, begin = begin, n = n](int peer) {
      const Range theirs = part(n, peer);
      group_.await(group_.member(peer).read, done(k), peer, call_);
      copy_bytes(out(begin + theirs.begin), result(peer, k, theirs.begin), bytes(theirs.size()));
    });
  }

  Collectives& owner_;
  Group& group_;
  const Call& call_;
  const int rank_;
  const int size_;
  const int64_t element_;
  const uint64_t first_;
  const bool single_pass_;
  int64_t chunk_;
  std::vector<std::byte*> tensors_;  // by rank; null if the data goes through the slots
};

Collectives::Collectives(Group& group, std::shared_ptr<Arena> arena)
    : group_(group), arena_(std::move(arena)), peer_maps_(group.size()) {}

void Collectives::execute(const Call& call) { Run(*this, call).run(); }

}  // namespace lockstep::comm::shm
