#include <algorithm>
#include <cstring>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/engine/transport.h"
#include "comm/reduce/reduce_kernels.h"

namespace lockstep::comm {
namespace {

using Channel = Transport::Channel;

// One call over one transport.
class Execution {
 public:
  Execution(Transport& transport, const Call& call)
      : transport_(transport),
        call_(call),
        rank_(transport.rank()),
        size_(transport.size()),
        bytes_(static_cast<size_t>(call.bytes())) {}

  void run() {
    if (point_to_point(call_.op)) return message();
    compare_fingerprints();
    switch (call_.op) {
      case Op::all_reduce: return all_reduce();
      case Op::reduce_scatter: return reduce_scatter();
      case Op::all_gather: return all_gather();
      case Op::broadcast: return broadcast();
      case Op::reduce: return reduce();
      case Op::gather: return gather();
      case Op::scatter: return scatter();
      case Op::all_to_all: return all_to_all();
      default: return;  // barrier: the fingerprints have met
    }
  }

 private:
  const std::byte* in(int64_t element = 0) const {
    return static_cast<const std::byte*>(call_.in) + element * size_of(call_.dtype);
  }
  std::byte* out(int64_t element = 0) const {
    return static_cast<std::byte*>(call_.out) + element * size_of(call_.dtype);
  }
  void send(int to, const void* data, size_t bytes) { sends_.push_back({to, data, bytes}); }
  void receive(int from, void* data, size_t bytes) { receives_.push_back({from, data, bytes}); }
  void exchange(Channel channel = Channel::collective) {
    transport_.exchange(channel, sends_, receives_, call_.limit);
    sends_.clear();
    receives_.clear();
  }
  // Calls f(peer) for all others, starting behind this rank so that not all send to the same one
  // first.
  template <typename F>
  void for_peers(F f) const {
    for (int i = 1; i < size_; ++i) f((rank_ + i) % size_);
  }
  static void copy(void* to, const void* from, size_t bytes) {
    if (to != from && bytes > 0) std::memcpy(to, from, bytes);
  }

  void compare_fingerprints() {
    std::vector<Fingerprint> calls(static_cast<size_t>(size_));
    calls[static_cast<size_t>(rank_)] = call_.fingerprint;
    for_peers([&](int peer) {
      send(peer, &call_.fingerprint, sizeof(Fingerprint));
      receive(peer, &calls[static_cast<size_t>(peer)], sizeof(Fingerprint));
    });
    exchange();
    check_equal(calls);
  }

  // The sender says what comes, the receiver answers what it expects, then the data moves: a
  // mismatch is known to both before, and a sender never runs ahead of a receiver.
  void message() {
    const int peer = call_.root;
    const Fingerprint& mine = call_.fingerprint;
    Fingerprint theirs;
    if (call_.op == Op::send) {
      send(peer, &mine, sizeof mine);
      exchange(Channel::message);
      receive(peer, &theirs, sizeof theirs);
      exchange(Channel::answer);
      if (theirs != mine) throw mismatch_error(rank_, mine, peer, theirs);
      send(peer, call_.in, bytes_);
    } else {
      receive(peer, &theirs, sizeof theirs);
      exchange(Channel::message);
      send(peer, &mine, sizeof mine);
      exchange(Channel::answer);
      if (theirs != mine) throw mismatch_error(peer, theirs, rank_, mine);
      receive(peer, call_.out, bytes_);
    }
    exchange(Channel::message);
  }

  // Sums slice [part] of every rank's values; `slices` by rank.
  void sum(const std::vector<const void*>& slices, void* result, int64_t count) const {
    reduce_in_order(call_.dtype, call_.reduce_op, call_.tree->steps(), slices,
                    std::span<void* const>(&result, 1), count);
  }

  // Brings the pieces [begin(r), end(r)) of every rank's `in` to rank r and sums them there into
  // `result`.
  template <typename RangeOf>
  void direct_reduce(RangeOf range_of, void* result) {
    const Range mine = range_of(rank_);
    const size_t mine_bytes = static_cast<size_t>(mine.size() * size_of(call_.dtype));
    std::vector<std::byte> received(mine_bytes * static_cast<size_t>(size_ - 1));
    std::vector<const void*> slices(static_cast<size_t>(size_));
    slices[static_cast<size_t>(rank_)] = in(mine.begin);
    std::byte* at = received.data();
    for_peers([&](int peer) {
      const Range theirs = range_of(peer);
      send(peer, in(theirs.begin), static_cast<size_t>(theirs.size() * size_of(call_.dtype)));
      receive(peer, at, mine_bytes);
      slices[static_cast<size_t>(peer)] = at;
      at += mine_bytes;
    });
    exchange();
    sum(slices, result, mine.size());
  }

  void all_reduce() {
    const auto range_of = [&](int rank) { return part_of(call_.count, size_, rank); };
    const Range mine = range_of(rank_);
    direct_reduce(range_of, out(mine.begin));
    for_peers([&](int peer) {
      const Range theirs = range_of(peer);
      send(peer, out(mine.begin), static_cast<size_t>(mine.size() * size_of(call_.dtype)));
      receive(peer, out(theirs.begin), static_cast<size_t>(theirs.size() * size_of(call_.dtype)));
    });
    exchange();
  }

  void reduce_scatter() {
    direct_reduce(
        [&](int rank) {
          return Range{rank * call_.count, (rank + 1) * call_.count};
        },
        call_.out);
  }

  // Every rank sums its part, the root collects them: no rank receives more than twice the data,
  // whatever their number.
  void reduce() {
    const auto range_of = [&](int rank) { return part_of(call_.count, size_, rank); };
    const Range mine = range_of(rank_);
    const size_t mine_bytes = static_cast<size_t>(mine.size() * size_of(call_.dtype));
    if (rank_ == call_.root) {
      direct_reduce(range_of, out(mine.begin));
      for_peers([&](int peer) {
        const Range theirs = range_of(peer);
        receive(peer, out(theirs.begin), static_cast<size_t>(theirs.size() * size_of(call_.dtype)));
      });
      return exchange();
    }
    std::vector<std::byte> result(mine_bytes);
    direct_reduce(range_of, result.data());
    send(call_.root, result.data(), mine_bytes);
    exchange();
  }

  void all_gather() {
    copy(out(rank_ * call_.count), in(), bytes_);
    for_peers([&](int peer) {
      send(peer, in(), bytes_);
      receive(peer, out(peer * call_.count), bytes_);
    });
    exchange();
  }

  // Scatter, then all-gather: twice the data through each rank, instead of W times the data out of
  // the root.
  void broadcast() {
    const auto part = [&](int rank) { return part_of(call_.count, size_, rank); };
    const auto part_bytes = [&](int rank) {
      return static_cast<size_t>(part(rank).size() * size_of(call_.dtype));
    };
    if (rank_ == call_.root)
      for_peers([&](int peer) { send(peer, in(part(peer).begin), part_bytes(peer)); });
    else
      receive(call_.root, out(part(rank_).begin), part_bytes(rank_));
    exchange();
    for_peers([&](int peer) {
      if (peer != call_.root) send(peer, out(part(rank_).begin), part_bytes(rank_));
      if (rank_ != call_.root) receive(peer, out(part(peer).begin), part_bytes(peer));
    });
    exchange();
  }

  void gather() {
    if (rank_ == call_.root) {
      copy(out(rank_ * call_.count), in(), bytes_);
      for_peers([&](int peer) { receive(peer, out(peer * call_.count), bytes_); });
    } else {
      send(call_.root, in(), bytes_);
    }
    exchange();
  }

  void scatter() {
    if (rank_ == call_.root) {
      copy(out(), in(rank_ * call_.count), bytes_);
      for_peers([&](int peer) { send(peer, in(peer * call_.count), bytes_); });
    } else {
      receive(call_.root, out(), bytes_);
    }
    exchange();
  }

  void all_to_all() {
    copy(out(rank_ * call_.count), in(rank_ * call_.count), bytes_);
    for_peers([&](int peer) {
      send(peer, in(peer * call_.count), bytes_);
      receive(peer, out(peer * call_.count), bytes_);
    });
    exchange();
  }

  Transport& transport_;
  const Call& call_;
  const int rank_;
  const int size_;
  const size_t bytes_;
  std::vector<Transport::Send> sends_;
  std::vector<Transport::Receive> receives_;
};

}  // namespace

void execute_over(Transport& transport, const Call& call) { Execution(transport, call).run(); }

}  // namespace lockstep::comm
