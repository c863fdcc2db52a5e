#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "comm/engine/backend.h"
#include "comm/engine/transport.h"
#include "comm/peer_failure.h"
#include "comm/reduce/reduce_kernels.h"

namespace lockstep::comm {
namespace {

using Channel = Transport::Channel;

// A long all_reduce runs in pieces of this many bytes: they fit into caches, and memory for terms
// does not grow with the tensor.
constexpr int64_t kPiece = int64_t{4} << 20;

// Up to this many bytes sent by each rank, an all_reduce lets every rank sum the whole.
constexpr size_t kMostToSumEverywhere = size_t{64} << 10;

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
    switch (call_.op) {
      case Op::all_reduce: return all_reduce();
      case Op::reduce_scatter: return reduce_scatter();
      case Op::all_gather: return all_gather();
      case Op::broadcast: return broadcast();
      case Op::reduce: return reduce();
      case Op::gather: return gather();
      case Op::scatter: return scatter();
      case Op::all_to_all: return all_to_all();
      default: return first_exchange();  // barrier: the fingerprints meet
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
  void exchange(Channel channel = Channel::collective) { exchange(channel, call_.limit); }
  void exchange(Channel channel, const Limit& limit) {
    transport_.exchange(channel, sends_, receives_, limit);
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

  // The first exchange of a collective. No data is released before all fingerprints were compared:
  // what comes with them goes to memory of its own, and what is too long to ride along comes after
  // them.
  void first_exchange() {
    const size_t most = transport_.most_to_ride_along();
    if (most == 0) {
      std::vector<Transport::Send> sends = std::move(sends_);
      std::vector<Transport::Receive> receives = std::move(receives_);
      sends_.clear();
      receives_.clear();
      compare_fingerprints();
      sends_ = std::move(sends);
      receives_ = std::move(receives);
      if (!sends_.empty() || !receives_.empty()) exchange();
      return;
    }
    open_with(most);
    const auto rode = [most](const auto& message) { return message.bytes <= most; };
    std::erase_if(sends_, rode);
    std::erase_if(receives_, rode);
    if (!sends_.empty() || !receives_.empty()) exchange();
  }

  // To every rank: the fingerprint, and behind it what is for this rank, if it is short enough.
  void open_with(size_t most) {
    constexpr size_t kHead = sizeof(Fingerprint);
    const auto size = static_cast<size_t>(size_);
    std::vector<std::vector<std::byte>> outgoing(size);
    for (auto& message : outgoing) {
      message.resize(kHead);
      std::memcpy(message.data(), &call_.fingerprint, kHead);
    }
    for (const auto& s : sends_) {
      if (s.bytes > most) continue;
      const auto* data = static_cast<const std::byte*>(s.data);
      auto& message = outgoing[static_cast<size_t>(s.to)];
      message.insert(message.end(), data, data + s.bytes);
    }
    // Room for the longest message, since a rank whose call differs may send it.
    const auto incoming = std::make_unique_for_overwrite<std::byte[]>(size * (kHead + most));
    const auto message_of = [&](int peer) {
      return incoming.get() + static_cast<size_t>(peer) * (kHead + most);
    };
    std::vector<size_t> got(size, kHead);
    std::vector<Transport::Send> sends;
    std::vector<Transport::Receive> receives;
    for_peers([&](int peer) {
      const auto i = static_cast<size_t>(peer);
      sends.push_back({peer, outgoing[i].data(), outgoing[i].size()});
      receives.push_back({peer, message_of(peer), kHead + most, &got[i]});
    });
    transport_.exchange(Channel::opening, sends, receives, call_.limit);
    std::vector<Fingerprint> calls(size);
    calls[static_cast<size_t>(rank_)] = call_.fingerprint;
    for_peers([&](int peer) {
      const auto i = static_cast<size_t>(peer);
      check_length(got[i] >= kHead, peer);
      std::memcpy(&calls[i], message_of(peer), kHead);
    });
    check_equal(calls);
    std::vector<size_t> expected(size, kHead);
    for (const auto& r : receives_)
      if (r.bytes <= most) expected[static_cast<size_t>(r.from)] += r.bytes;
    for_peers([&](int peer) {
      check_length(got[static_cast<size_t>(peer)] == expected[static_cast<size_t>(peer)], peer);
    });
    for (const auto& r : receives_)
      if (r.bytes <= most) copy(r.data, message_of(r.from) + kHead, r.bytes);
  }

  static void check_length(bool is_right, int peer) {
    if (!is_right)
      throw FromPeer<EnvironmentError>(str("rank ", peer,
                                           " sent a first message of another length than its call "
                                           "has: another version of lockstep"));
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
      // The sender counts on this rank from here on.
      const Limit begun = call_.limit.of_begun_message();
      send(peer, &mine, sizeof mine);
      exchange(Channel::answer, begun);
      if (theirs != mine) throw mismatch_error(peer, theirs, rank_, mine);
      receive(peer, call_.out, bytes_);
      return exchange(Channel::message, begun);
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
    std::vector<const void*> slices(static_cast<size_t>(size_));
    slices[static_cast<size_t>(rank_)] = in(mine.begin);
    std::byte* at = transport_.scratch(mine_bytes * static_cast<size_t>(size_ - 1));
    for_peers([&](int peer) {
      const Range theirs = range_of(peer);
      send(peer, in(theirs.begin), static_cast<size_t>(theirs.size() * size_of(call_.dtype)));
      receive(peer, at, mine_bytes);
      slices[static_cast<size_t>(peer)] = at;
      at += mine_bytes;
    });
    first_exchange();
    sum(slices, result, mine.size());
  }

  void all_reduce() {
    if (const size_t most = transport_.most_to_ride_along();
        bytes_ <= most && bytes_ * static_cast<size_t>(size_ - 1) <= kMostToSumEverywhere) {
      // One exchange instead of two: every rank gets all and sums all.
      return sum_whole();
    }
    // A piece's sums travel with the next piece's terms.
    const int64_t piece = std::max<int64_t>(1, kPiece / size_of(call_.dtype));
    const int64_t pieces = std::max<int64_t>(1, (call_.count + piece - 1) / piece);
    for (int64_t i = 0; i <= pieces; ++i) {
      const bool reduces = i<pieces, gathers = i> 0;
      std::vector<const void*> slices;
      if (reduces) slices = queue_terms(i * piece, piece);
      if (gathers) queue_sums((i - 1) * piece, piece);
      i == 0 ? first_exchange() : exchange();
      const Range mine = part_of_piece(i * piece, piece, rank_);
      if (reduces) sum(slices, out(mine.begin), mine.size());
    }
  }

  // The part that a rank sums of the piece of `length` elements, or what is left, from `begin`.
  Range part_of_piece(int64_t begin, int64_t length, int rank) const {
    const Range part =
        part_of(std::min(length, std::max<int64_t>(call_.count - begin, 0)), size_, rank);
    return {begin + part.begin, begin + part.end};
  }
  size_t bytes_of(Range range) const {
    return static_cast<size_t>(range.size() * size_of(call_.dtype));
  }

  // To every rank what it sums, from every rank what this one sums. Returns where that will be, by
  // rank.
  std::vector<const void*> queue_terms(int64_t begin, int64_t length) {
    const Range mine = part_of_piece(begin, length, rank_);
    std::byte* at = transport_.scratch(bytes_of(mine) * static_cast<size_t>(size_ - 1));
    std::vector<const void*> slices(static_cast<size_t>(size_));
    slices[static_cast<size_t>(rank_)] = in(mine.begin);
    for_peers([&](int peer) {
      const Range theirs = part_of_piece(begin, length, peer);
      send(peer, in(theirs.begin), bytes_of(theirs));
      receive(peer, at, bytes_of(mine));
      slices[static_cast<size_t>(peer)] = at;
      at += bytes_of(mine);
    });
    return slices;
  }

  void queue_sums(int64_t begin, int64_t length) {
    const Range mine = part_of_piece(begin, length, rank_);
    for_peers([&](int peer) {
      const Range theirs = part_of_piece(begin, length, peer);
      send(peer, out(mine.begin), bytes_of(mine));
      receive(peer, out(theirs.begin), bytes_of(theirs));
    });
  }

  void sum_whole() {
    std::byte* const received = transport_.scratch(bytes_ * static_cast<size_t>(size_));
    std::vector<const void*> slices(static_cast<size_t>(size_));
    slices[static_cast<size_t>(rank_)] = in();
    for_peers([&](int peer) {
      std::byte* at = received + static_cast<size_t>(peer) * bytes_;
      send(peer, in(), bytes_);
      receive(peer, at, bytes_);
      slices[static_cast<size_t>(peer)] = at;
    });
    first_exchange();
    sum(slices, out(), call_.count);
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
    for_peers([&](int peer) {
      send(peer, in(), bytes_);
      receive(peer, out(peer * call_.count), bytes_);
    });
    first_exchange();
    copy(out(rank_ * call_.count), in(), bytes_);
  }

  // Scatter, then all-gather: twice the data through each rank, instead of W times the data out of
  // the root.
  void broadcast() {
    if (bytes_ <= transport_.most_to_ride_along()) {
      if (rank_ == call_.root)
        for_peers([&](int peer) { send(peer, in(), bytes_); });
      else
        receive(call_.root, out(), bytes_);
      return first_exchange();
    }
    const auto part = [&](int rank) { return part_of(call_.count, size_, rank); };
    const auto part_bytes = [&](int rank) {
      return static_cast<size_t>(part(rank).size() * size_of(call_.dtype));
    };
    if (rank_ == call_.root)
      for_peers([&](int peer) { send(peer, in(part(peer).begin), part_bytes(peer)); });
    else
      receive(call_.root, out(part(rank_).begin), part_bytes(rank_));
    first_exchange();
    for_peers([&](int peer) {
      if (peer != call_.root) send(peer, out(part(rank_).begin), part_bytes(rank_));
      if (rank_ != call_.root) receive(peer, out(part(peer).begin), part_bytes(peer));
    });
    exchange();
  }

  void gather() {
    if (rank_ == call_.root) {
      for_peers([&](int peer) { receive(peer, out(peer * call_.count), bytes_); });
    } else {
      send(call_.root, in(), bytes_);
    }
    first_exchange();
    if (rank_ == call_.root) copy(out(rank_ * call_.count), in(), bytes_);
  }

  void scatter() {
    if (rank_ == call_.root) {
      for_peers([&](int peer) { send(peer, in(peer * call_.count), bytes_); });
    } else {
      receive(call_.root, out(), bytes_);
    }
    first_exchange();
    if (rank_ == call_.root) copy(out(), in(rank_ * call_.count), bytes_);
  }

  void all_to_all() {
    for_peers([&](int peer) {
      send(peer, in(peer * call_.count), bytes_);
      receive(peer, out(peer * call_.count), bytes_);
    });
    first_exchange();
    copy(out(rank_ * call_.count), in(rank_ * call_.count), bytes_);
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
