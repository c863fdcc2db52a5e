#include "comm/staged/staging.h"

#include <algorithm>
#include <thread>

#include <sched.h>

#include "core/base/error.h"
#include "core/device/kernels.h"

namespace lockstep::comm::staged {
namespace {

// How a thread waits for the device: it asks often while the answer is likely to be near, and then
// leaves the core to the threads that queue work.
constexpr int kEagerPolls = 200;
constexpr auto kNap = std::chrono::microseconds(20);

// Of a copy between host and device. Far more than the largest takes.
constexpr Duration kCopyLimit = std::chrono::seconds(60);

}  // namespace

void await(const Event& event, const std::function<void()>& give_up) {
  for (int polls = 0; !event.done(); ++polls) {
    give_up();
    if (polls < kEagerPolls)
      sched_yield();
    else
      std::this_thread::sleep_for(kNap);
  }
}

// One call in pinned memory. A tensor of W slices lies there as on the device.
class Staging::Stay {
 public:
  Stay(Staging& owner, const Call& call, int rank, int size)
      : owner_(owner),
        call_(call),
        slice_(call.bytes()),
        mine_(rank * slice_),
        whole_(size * slice_),
        is_root_(call.root == rank) {}

  // What runs on the host, with this memory for the tensors.
  Call inner() {
    staged_ = owner_.memory(bytes());
    Call inner = call_;
    inner.ready = {};
    inner.in_memory = inner.out_memory = owner_.memory_.get();
    if (call_.in) inner.in = staged_;
    if (call_.out) inner.out = staged_;
    // The smaller tensor is this rank's slice of the larger one: no backend copies it then.
    if (call_.in && call_.out) {
      if (call_.op == Op::all_gather || call_.op == Op::gather) inner.in = staged_ + mine_;
      if (call_.op == Op::reduce_scatter || call_.op == Op::scatter) inner.out = staged_ + mine_;
      if (call_.op == Op::all_to_all) inner.out = staged_ + whole_;
    }
    return inner;
  }

  // Queues the copies of what other ranks, or this one's sums, need.
  void copy_in() const {
    switch (call_.op) {
      case Op::all_reduce:
      case Op::reduce:
      case Op::send: return to_host(0, 0, slice_);
      case Op::broadcast: return is_root_ ? to_host(0, 0, slice_) : void();
      case Op::reduce_scatter: return to_host(0, 0, whole_);
      case Op::all_gather: return to_host(0, mine_, slice_);
      case Op::gather: return is_root_ ? void() : to_host(0, 0, slice_);
      case Op::scatter: return is_root_ ? others_to_host() : void();
      case Op::all_to_all: return others_to_host();
      default: return;
    }
  }

  // Queues the copies of what other ranks, or sums, have brought. The rest of the output comes from
  // the input on the device.
  void copy_out() const {
    switch (call_.op) {
      case Op::all_reduce:
      case Op::recv: return to_device(0, 0, slice_);
      case Op::reduce: return is_root_ ? to_device(0, 0, slice_) : void();
      case Op::broadcast: return is_root_ ? void() : to_device(0, 0, slice_);
      case Op::reduce_scatter: return to_device(0, mine_, slice_);
      case Op::all_gather: return others_to_device(0), own_slice(mine_, 0);
      case Op::gather: return is_root_ ? (others_to_device(0), own_slice(mine_, 0)) : void();
      case Op::scatter: return is_root_ ? own_slice(0, mine_) : to_device(0, 0, slice_);
      case Op::all_to_all: return others_to_device(whole_), own_slice(mine_, mine_);
      default: return;
    }
  }

  // Returns when what is queued is done, whatever has become of the call: its tensors are the
  // caller's again then. Copies wait for nothing, so only a device that has failed takes long.
  void settle() const {
    const Deadline limit = Deadline::after(kCopyLimit);
    try {
      await(Event::record(owner_.queue_), [&] {
        if (limit.passed())
          throw TimeoutError(str(owner_.device_, " has not copied ", call_.bytes(), " bytes in ",
                                 seconds(kCopyLimit), " s"));
      });
    } catch (...) {
      for (const Storage* memory : {call_.in_memory, call_.out_memory})
        if (memory) memory->used_on(owner_.queue_);
      throw;
    }
  }

 private:
  int64_t bytes() const {
    switch (call_.op) {
      case Op::reduce_scatter:
      case Op::all_gather: return whole_;
      case Op::gather:
      case Op::scatter: return is_root_ ? whole_ : slice_;
      case Op::all_to_all: return 2 * whole_;
      default: return slice_;
    }
  }

  const std::byte* in(int64_t at) const { return static_cast<const std::byte*>(call_.in) + at; }
  std::byte* out(int64_t at) const { return static_cast<std::byte*>(call_.out) + at; }
  void copy(void* to, const void* from, int64_t bytes) const {
    if (bytes > 0) kernels(owner_.device_).copy_bytes(owner_.queue_, to, from, bytes);
  }

  void to_host(int64_t from, int64_t to, int64_t bytes) const {
    copy(staged_ + to, in(from), bytes);
  }
  void to_device(int64_t to, int64_t from, int64_t bytes) const {
    copy(out(to), staged_ + from, bytes);
  }
  // All slices but this rank's.
  void others_to_host() const {
    to_host(0, 0, mine_);
    to_host(mine_ + slice_, mine_ + slice_, whole_ - mine_ - slice_);
  }
  void others_to_device(int64_t from) const {
    to_device(0, from, mine_);
    to_device(mine_ + slice_, from + mine_ + slice_, whole_ - mine_ - slice_);
  }
  void own_slice(int64_t to, int64_t from) const {
    if (out(to) != in(from)) copy(out(to), in(from), slice_);
  }

  Staging& owner_;
  const Call& call_;
  const int64_t slice_, mine_, whole_;  // bytes: of n elements, before this rank's, of W slices
  const bool is_root_;
  std::byte* staged_ = nullptr;
};

void Staging::run(const Call& call, Backend& inner) {
  Stay stay(*this, call, inner.rank(), inner.size());
  const Call on_host = stay.inner();
  stay.copy_in();
  stay.settle();
  inner.execute(on_host);
  stay.copy_out();
  stay.settle();
}

// Grows by half at least, so that a few calls find the size that all of them need.
std::byte* Staging::memory(int64_t bytes) {
  const auto wanted = static_cast<size_t>(bytes);
  if (!memory_ || memory_->bytes() < wanted) {
    const size_t before = memory_ ? memory_->bytes() : 0;
    memory_ = nullptr;
    MemoryScope scope(MemoryCategory::buffers);
    memory_ = Storage::pinned(std::max(wanted, before + before / 2), device_);
    // A call that gave up may leave a copy behind.
    memory_->used_on(queue_);
  }
  return static_cast<std::byte*>(memory_->data());
}

}  // namespace lockstep::comm::staged
