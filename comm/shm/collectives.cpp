#include "comm/shm/collectives.h"

#include <algorithm>
#include <cstring>

namespace lockstep::comm::shm {
namespace {

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

// One call on one rank.
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
        // Where every rank has something of its own for each other one, a step's buffer is shared among them.
        chunk_(static_cast<int64_t>(kChunkBytes) / element_ / (slices_for_all() ? size_ : 1) / 64 * 64) {}

  void run() {
    const bool direct = arrive();
    const uint32_t steps = direct ? 1 : static_cast<uint32_t>(std::max<int64_t>(1, (call_.count + chunk_ - 1) / chunk_));
    if (direct) {
      consume_direct();
      publish_read(0);
      await_all(&Member::read, 0);
    } else {
      go_through(steps);
    }
    owner_.step_ = first_ + steps;
  }

 private:
  // What the ranks' slots hold in a step: [begin, end) of the n elements.
  struct Chunk {
    int64_t begin, size;
  };
  Chunk chunk(uint32_t k) const {
    const int64_t begin = k * chunk_;
    return {begin, std::min(chunk_, call_.count - begin)};
  }

  bool slices_for_all() const { return call_.op == Op::reduce_scatter || call_.op == Op::scatter || call_.op == Op::all_to_all; }
  bool is_root() const { return call_.root == rank_; }
  // Sums that more than their maker needs.
  bool collects() const { return call_.op == Op::all_reduce || call_.op == Op::reduce; }

  size_t bytes(int64_t elements) const { return static_cast<size_t>(elements * element_); }
  const std::byte* in(int64_t element) const { return static_cast<const std::byte*>(call_.in) + element * element_; }
  std::byte* out(int64_t element) const { return static_cast<std::byte*>(call_.out) + element * element_; }
  std::byte* stage(int rank, uint32_t k, int64_t element) const { return group_.stage(rank, first_ + k) + element * element_; }
  std::byte* result(int rank, uint32_t k, int64_t element) const { return group_.result(rank, first_ + k) + element * element_; }
  // Calls f(peer) for all others, beginning behind this rank, so that not all read the same one at first.
  template <typename F>
  void for_peers(F f) const {
    for (int i = 1; i < size_; ++i) f((rank_ + i) % size_);
  }

  void publish_staged(uint32_t k) { group_.member(rank_).staged.publish(first_ + k + 1); }
  void publish_read(uint32_t k) { group_.member(rank_).read.publish(first_ + k + 1); }
  void await_all(Word Member::*word, uint32_t k) {
    for_peers([&](int peer) { group_.await(group_.member(peer).*word, first_ + k + 1, peer, call_); });
  }

  // Step 0 up to the point where everybody is here and has called the same. Whether all tensors lie in shared memory.
  bool arrive() {
    Notice& notice = group_.member(rank_).notices[call_.fingerprint.sequence % 2];
    notice.call = call_.fingerprint;
    notice.in = in_place_op() ? owner_.arena_->find(call_.in, bytes(in_elements())) : Location{};
    notice.retired = owner_.arena_->retired();
    if (notice.in.id == 0) stage_step(0);
    publish_staged(0);
    await_all(&Member::staged, 0);

    std::vector<Fingerprint> calls;
    bool all = true, any = false;
    for (int r = 0; r < size_; ++r) {
      const Notice& theirs = group_.member(r).notices[call_.fingerprint.sequence % 2];
      calls.push_back(theirs.call);
      all = all && theirs.in.id != 0;
      any = any || theirs.in.id != 0;
    }
    check_equal(calls);
    if (any && !all) {
      // Some have staged nothing: everybody counts the step as done and begins anew with the next one.
      publish_read(0);
      ++first_;
      stage_step(0);
      publish_staged(0);
    }
    return all;
  }

  void go_through(uint32_t steps) {
    for (uint32_t k = 0; k < steps; ++k) {
      if (k + 1 < steps) {
        stage_step(k + 1);
        publish_staged(k + 1);
      }
      await_all(&Member::staged, k);
      consume(k);
      publish_read(k);
      // One step late, when the others' sums are likely to be there.
      if (k > 0) collect_step(k - 1);
    }
    collect_step(steps - 1);
  }

  void stage_step(uint32_t k) {
    // The slot's last readers must have gone.
    for_peers([&](int peer) { group_.await(group_.member(peer).read, first_ + k + 1 - kSlots, peer, call_); });
    const auto [begin, n] = chunk(k);
    switch (call_.op) {
      case Op::all_reduce:
      case Op::reduce:
        for_peers([&](int peer) {
          const Range part = part_of(n, size_, peer);
          copy_bytes(stage(rank_, k, part.begin), in(begin + part.begin), bytes(part.size()));
        });
        return;
      case Op::all_gather: return copy_bytes(stage(rank_, k, 0), in(begin), bytes(n));
      case Op::broadcast:
        if (is_root()) copy_bytes(stage(rank_, k, 0), in(begin), bytes(n));
        return;
      case Op::gather:
        if (!is_root()) copy_bytes(stage(rank_, k, 0), in(begin), bytes(n));
        return;
      case Op::scatter:
        if (!is_root()) return;
        [[fallthrough]];
      case Op::reduce_scatter:
      case Op::all_to_all:
        for_peers([&](int peer) { copy_bytes(stage(rank_, k, peer * chunk_), in(peer * call_.count + begin), bytes(n)); });
        return;
      default: return;
    }
  }

  // Sums this rank's part: `own` and what `peer_source(r)` says, into `outs`.
  template <typename F>
  void sum(const std::byte* own, F peer_source, std::span<void* const> outs, int64_t n) const {
    std::vector<const void*> sources(static_cast<size_t>(size_));
    sources[static_cast<size_t>(rank_)] = own;
    for_peers([&](int peer) { sources[static_cast<size_t>(peer)] = peer_source(peer); });
    reduce_in_order(call_.dtype, call_.reduce_op, call_.tree->steps(), sources, outs, n);
  }

  void consume(uint32_t k) {
    const auto [begin, n] = chunk(k);
    switch (call_.op) {
      case Op::all_reduce:
      case Op::reduce: {
        const Range part = part_of(n, size_, rank_);
        std::vector<void*> outs{result(rank_, k, part.begin)};
        if (call_.op == Op::all_reduce || is_root()) outs.push_back(out(begin + part.begin));
        // The root of a reduce is alone in needing its own sum.
        if (call_.op == Op::reduce && is_root()) outs.erase(outs.begin());
        return sum(
            in(begin + part.begin), [&](int peer) { return stage(peer, k, part.begin); }, outs, part.size());
      }
      case Op::reduce_scatter: {
        void* const target = out(begin);
        return sum(
            in(rank_ * call_.count + begin), [&](int peer) { return stage(peer, k, rank_ * chunk_); }, {&target, 1}, n);
      }
      case Op::all_gather:
        copy_bytes(out(rank_ * call_.count + begin), in(begin), bytes(n));
        return for_peers([&](int peer) { copy_bytes(out(peer * call_.count + begin), stage(peer, k, 0), bytes(n)); });
      case Op::broadcast:
        if (!is_root()) copy_bytes(out(begin), stage(call_.root, k, 0), bytes(n));
        return;
      case Op::gather:
        if (!is_root()) return;
        copy_bytes(out(rank_ * call_.count + begin), in(begin), bytes(n));
        return for_peers([&](int peer) { copy_bytes(out(peer * call_.count + begin), stage(peer, k, 0), bytes(n)); });
      case Op::scatter:
        if (is_root()) return copy_bytes(out(begin), in(rank_ * call_.count + begin), bytes(n));
        return copy_bytes(out(begin), stage(call_.root, k, rank_ * chunk_), bytes(n));
      case Op::all_to_all:
        copy_bytes(out(rank_ * call_.count + begin), in(rank_ * call_.count + begin), bytes(n));
        return for_peers([&](int peer) { copy_bytes(out(peer * call_.count + begin), stage(peer, k, rank_ * chunk_), bytes(n)); });
      default: return;
    }
  }

  void collect_step(uint32_t k) {
    if (!collects() || (call_.op == Op::reduce && !is_root())) return;
    const auto [begin, n] = chunk(k);
    for_peers([&, begin = begin, n = n](int peer) {
      const Range part = part_of(n, size_, peer);
      group_.await(group_.member(peer).read, first_ + k + 1, peer, call_);
      copy_bytes(out(begin + part.begin), result(peer, k, part.begin), bytes(part.size()));
    });
  }

  // With every rank's tensor mapped here, there is nothing to stage: each rank sums its part out of all of them and, in an
  // all-reduce, writes it into all of them.
  bool in_place_op() const {
    return call_.count > 0 && (call_.op == Op::all_reduce || call_.op == Op::reduce_scatter || call_.op == Op::all_gather);
  }
  int64_t in_elements() const { return call_.op == Op::reduce_scatter ? size_ * call_.count : call_.count; }

  std::byte* peer_tensor(int peer) {
    const Notice& notice = group_.member(peer).notices[call_.fingerprint.sequence % 2];
    return owner_.peer_maps_.resolve(peer, group_.member(peer).pid, notice.retired, notice.in);
  }

  void consume_direct() {
    std::vector<std::byte*> tensors(static_cast<size_t>(size_), static_cast<std::byte*>(const_cast<void*>(call_.in)));
    for_peers([&](int peer) { tensors[static_cast<size_t>(peer)] = peer_tensor(peer); });
    if (call_.op == Op::all_gather) {
      for (int r = 0; r < size_; ++r) copy_bytes(out(r * call_.count), tensors[static_cast<size_t>(r)], bytes(call_.count));
      return;
    }
    const bool everywhere = call_.op == Op::all_reduce;
    const Range part = everywhere ? part_of(call_.count, size_, rank_) : Range{rank_ * call_.count, (rank_ + 1) * call_.count};
    std::vector<const void*> sources;
    std::vector<void*> outs;
    for (std::byte* tensor : tensors) sources.push_back(tensor + part.begin * element_);
    if (everywhere)
      for (std::byte* tensor : tensors) outs.push_back(tensor + part.begin * element_);
    else
      outs.push_back(call_.out);
    reduce_in_order(call_.dtype, call_.reduce_op, call_.tree->steps(), sources, outs, part.size());
  }

  Collectives& owner_;
  Group& group_;
  const Call& call_;
  const int rank_;
  const int size_;
  const int64_t element_;
  uint32_t first_;
  const int64_t chunk_;
};

Collectives::Collectives(Group& group, std::shared_ptr<Arena> arena) : group_(group), arena_(std::move(arena)), peer_maps_(group.size()) {}

void Collectives::execute(const Call& call) { Run(*this, call).run(); }

}  // namespace lockstep::comm::shm
