#include "comm/nccl/collectives.h"

#include <optional>
#include <utility>
#include <vector>

#include "comm/reduce/reduce_kernels.h"
#include "core/base/error.h"
#include "core/device/cuda/ordered_sum.h"
#include "core/device/kernels.h"
#include "core/tensor/storage.h"

namespace lockstep::comm::nccl {
namespace {

// Up to so many bytes, every rank gets all tensors and sums the whole: one exchange instead of two.
constexpr int64_t kSmallBytes = 16 << 10;
// Slices lie at multiples of this, so that the kernel reads them in packs.
constexpr int64_t kAlignment = 256;

cuda::SliceOp slice_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum: return cuda::SliceOp::sum;
    case ReduceOp::product: return cuda::SliceOp::product;
    case ReduceOp::min: return cuda::SliceOp::min;
    case ReduceOp::max: return cuda::SliceOp::max;
    case ReduceOp::band: return cuda::SliceOp::band;
    case ReduceOp::bor: return cuda::SliceOp::bor;
    case ReduceOp::bxor: return cuda::SliceOp::bxor;
  }
  return cuda::SliceOp::sum;
}

bool nccl_sums(DType dtype, ReduceOp op) { return dtype != DType::boolean && op <= ReduceOp::max; }

cuda::SliceOrder order_of(const ReduceTree& tree) {
  std::vector<std::pair<int, int>> steps;
  for (const auto [left, right] : tree.steps()) steps.emplace_back(left, right);
  return {tree.ranks(), steps};
}

class Execution {
 public:
  Execution(Communicator& communicator, const Call& call, int rank, int size, const Check& check)
      : communicator_(communicator),
        call_(call),
        rank_(rank),
        size_(size),
        element_(size_of(call.dtype)),
        bytes_(call.bytes()),
        check_(check) {}

  void run() {
    const bool fast = call_.reduction == Reduction::fast && nccl_sums(call_.dtype, call_.reduce_op);
    switch (call_.op) {
      case Op::all_reduce: return fast ? fast_all_reduce() : all_reduce();
      case Op::reduce_scatter: return fast ? fast_reduce_scatter() : reduce_scatter();
      case Op::reduce: return fast ? fast_reduce() : reduce();
      case Op::all_gather: return all_gather(in(), out(), bytes_);
      case Op::broadcast: return broadcast();
      case Op::gather: return gather();
      case Op::scatter: return scatter();
      case Op::all_to_all: return all_to_all();
      case Op::send: return send(1, in(), bytes_), exchange("send");
      case Op::recv: return receive(0, out(), bytes_), exchange("recv");
      default: return;
    }
  }

 private:
  const std::byte* in(int64_t element = 0) const {
    return static_cast<const std::byte*>(call_.in) + element * element_;
  }
  std::byte* out(int64_t element = 0) const {
    return static_cast<std::byte*>(call_.out) + element * element_;
  }
  Range part(int rank) const { return part_of(call_.count, size_, rank); }

  void make(const char* what, const Communicator::Body& body) {
    communicator_.run(what, body, call_.limit, check_);
  }

  // ---- messages to and from peers, of which one exchange makes a unit ----
  void send(int to, const std::byte* data, int64_t bytes) {
    if (bytes > 0) sends_.push_back({to, data, static_cast<size_t>(bytes)});
  }
  void receive(int from, std::byte* data, int64_t bytes) {
    if (bytes > 0) receives_.push_back({from, data, static_cast<size_t>(bytes)});
  }
  void exchange(const char* what) {
    if (sends_.empty() && receives_.empty()) return;
    make(what, [&](CommHandle comm, StreamHandle stream) {
      int result = kSuccess;
      const auto take = [&](int next) {
        if (result == kSuccess || result == kInProgress) result = next;
      };
      for (const Send& s : sends_) take(api().send(s.data, s.bytes, s.to, comm, stream));
      for (const Receive& r : receives_) take(api().recv(r.data, r.bytes, r.from, comm, stream));
      return result;
    });
    sends_.clear();
    receives_.clear();
  }
  template <class F>
  void for_peers(const F& f) const {
    for (int i = 1; i < size_; ++i) f((rank_ + i) % size_);
  }

  // ---- memory ----
  // Lives on the group's queue, in whose order it is used and given back.
  std::byte* workspace(int64_t bytes) {
    const MemoryScope category(MemoryCategory::buffers);
    return static_cast<std::byte*>(
        workspace_.emplace(static_cast<size_t>(bytes), communicator_.queue().device()).data());
  }
  void copy(void* to, const void* from, int64_t bytes) const {
    if (to != from && bytes > 0)
      kernels(communicator_.queue().device()).copy_bytes(communicator_.queue(), to, from, bytes);
  }

  // ---- operations ----
  void all_gather(const std::byte* from, std::byte* to, int64_t bytes) {
    make("all_gather", [=](CommHandle comm, StreamHandle stream) {
      return api().all_gather(from, to, static_cast<size_t>(bytes), comm, stream);
    });
  }

  void broadcast() {
    make("broadcast", [&](CommHandle comm, StreamHandle stream) {
      return api().broadcast(in(), out(), static_cast<size_t>(bytes_), call_.root, comm, stream);
    });
  }

  void gather() {
    if (rank_ == call_.root) {
      copy(out(rank_ * call_.count), in(), bytes_);
      for_peers([&](int peer) { receive(peer, out(peer * call_.count), bytes_); });
    } else {
      send(call_.root, in(), bytes_);
    }
    exchange("gather");
  }

  void scatter() {
    if (rank_ == call_.root) {
      copy(out(), in(rank_ * call_.count), bytes_);
      for_peers([&](int peer) { send(peer, in(peer * call_.count), bytes_); });
    } else {
      receive(call_.root, out(), bytes_);
    }
    exchange("scatter");
  }

  void all_to_all() {
    copy(out(rank_ * call_.count), in(rank_ * call_.count), bytes_);
    for_peers([&](int peer) {
      send(peer, in(peer * call_.count), bytes_);
      receive(peer, out(peer * call_.count), bytes_);
    });
    exchange("all_to_all");
  }

  // ---- sums in tree order ----
  // Slices of n elements of all ranks but `own`, which is at `mine`; or of all, for own = -1.
  void combine(int own, const void* mine, const void* others, int64_t stride, void* result,
               int64_t n) const {
    cuda::combine_slices(communicator_.queue(), call_.dtype, slice_op(call_.reduce_op),
                         order_of(*call_.tree), own, mine, others, stride, result, n);
  }

  // Brings the pieces [begin(r), end(r)) of every rank's `in` to rank r, and sums them there.
  // result(mine) says where to, once the pieces are under way.
  template <class RangeOf, class Result>
  void direct_reduce(const RangeOf& range_of, const Result& result) {
    const Range mine = range_of(rank_);
    const int64_t slot = (mine.size() * element_ + kAlignment - 1) / kAlignment * kAlignment;
    // A result that has no place of its own lies behind the slices.
    std::byte* const received = workspace(slot * size_);
    for (int r = 0, at = 0; r < size_; ++r) {
      if (r == rank_) continue;
      const Range theirs = range_of(r);
      send(r, in(theirs.begin), theirs.size() * element_);
      receive(r, received + at++ * slot, mine.size() * element_);
    }
    exchange("exchanging slices");
    combine(rank_, in(mine.begin), received, slot / element_, result(received + (size_ - 1) * slot),
            mine.size());
  }

  void all_reduce() {
    if (bytes_ <= kSmallBytes) {
      const int64_t slot = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
      std::byte* const all = workspace(slot * size_);
      // What lies between the slices is never read, but travels along.
      copy(all + rank_ * slot, in(), bytes_);
      all_gather(all + rank_ * slot, all, slot);
      return combine(-1, nullptr, all, slot / element_, out(), call_.count);
    }
    const Range mine = part(rank_);
    direct_reduce([&](int r) { return part(r); }, [&](std::byte*) { return out(mine.begin); });
    const int64_t bytes = mine.size() * element_;
    if (call_.count % size_ == 0 && part(size_ - 1).size() * size_ == call_.count &&
        part(0).size() * size_ == call_.count)
      return all_gather(out(mine.begin), out(), bytes);
    for_peers([&](int peer) {
      send(peer, out(mine.begin), bytes);
      receive(peer, out(part(peer).begin), part(peer).size() * element_);
    });
    exchange("gathering sums");
  }

  void reduce_scatter() {
    direct_reduce(
        [&](int r) {
          return Range{r * call_.count, (r + 1) * call_.count};
        },
        [&](std::byte*) { return out(); });
  }

  void reduce() {
    const Range mine = part(rank_);
    std::byte* sum = nullptr;
    direct_reduce(
        [&](int r) { return part(r); },
        [&](std::byte* spare) { return sum = rank_ == call_.root ? out(mine.begin) : spare; });
    if (rank_ == call_.root)
      for_peers(
          [&](int peer) { receive(peer, out(part(peer).begin), part(peer).size() * element_); });
    else
      send(call_.root, sum, mine.size() * element_);
    exchange("collecting sums");
  }

  // ---- sums in NCCL's order ----
  void fast_all_reduce() {
    make("all_reduce", [&](CommHandle comm, StreamHandle stream) {
      return api().all_reduce(in(), out(), static_cast<size_t>(call_.count), call_.dtype,
                              call_.reduce_op, comm, stream);
    });
  }
  void fast_reduce_scatter() {
    make("reduce_scatter", [&](CommHandle comm, StreamHandle stream) {
      return api().reduce_scatter(in(), out(), static_cast<size_t>(call_.count), call_.dtype,
                                  call_.reduce_op, comm, stream);
    });
  }
  void fast_reduce() {
    make("reduce", [&](CommHandle comm, StreamHandle stream) {
      return api().reduce(in(), rank_ == call_.root ? out() : nullptr,
                          static_cast<size_t>(call_.count), call_.dtype, call_.reduce_op,
                          call_.root, comm, stream);
    });
  }

  struct Send {
    int to;
    const void* data;
    size_t bytes;
  };
  struct Receive {
    int from;
    void* data;
    size_t bytes;
  };

  Communicator& communicator_;
  const Call& call_;
  const int rank_, size_;
  const int64_t element_, bytes_;
  const Check& check_;
  std::vector<Send> sends_;
  std::vector<Receive> receives_;
  std::optional<Storage> workspace_;
};

}  // namespace

void run_call(Communicator& communicator, const Call& call, int rank, int size,
              const Check& check) {
  const QueueScope scope(communicator.queue());
  Execution(communicator, call, rank, size, check).run();
}

}  // namespace lockstep::comm::nccl
