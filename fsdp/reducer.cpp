#include "fsdp/reducer.h"

#include <algorithm>
#include <bit>

#include "core/device/allocator.h"

namespace lockstep::fsdp {
namespace {

void drop_gradients(const Unit& unit) {
  for (const auto& section : unit.sections())
    if (section->trained()) section->drop_gradients();
}

Tensor zeros(int64_t numel, Device device) {
  MemoryScope scope(MemoryCategory::gradients);
  return Tensor::zeros({numel}, DType::f32, device);
}

Tensor shared_zeros(int64_t numel, comm::ProcessGroup& group) {
  MemoryScope scope(MemoryCategory::gradients);
  return group.allocate({numel}, DType::f32);
}

}  // namespace

uint64_t Reducer::times(int64_t micro_batches) {
  return std::max<uint64_t>(1024, std::bit_ceil(static_cast<uint64_t>(micro_batches)));
}

Reducer::Reducer(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh,
                 Assignment assignment, uint64_t times, DType travels)
    : mesh_(mesh),
      assignment_(std::move(assignment)),
      units_(units.size()),
      times_(times),
      by_round_(assignment_.by_round && mesh.columns() > 1),
      travels_(travels) {
  check(travels == DType::f32 || travels == DType::bf16,
        "[fsdp] gradients travel as f32 or bf16, got ", travels);
  for (const auto& unit : units) {
    slots_[unit.get()];
    if (unit != units.front()) largest_ = std::max(largest_, buffer_elements(*unit));
    for (const auto& section : unit->sections()) {
      if (!section->trained()) continue;
      const int64_t slice = section->layout().slice(), total = section->layout().total();
      const Device device = section->master().device();
      Sum sum{
          .gradient = mesh.rows() > 1 ? shared_zeros(slice, *mesh.replicate) : zeros(slice, device),
          .shards = BinaryCounter([=] { return zeros(slice, device); }),
          .whole = BinaryCounter([=] { return zeros(total, device); }),
          .total = {}};
      // With one shard, the rank's own sum is its slice.
      if (!by_round_)
        sum.total = mesh.columns() == 1 ? sum.gradient : shared_zeros(total, *mesh.shard);
      sums_.emplace(section.get(), std::move(sum));
    }
  }
}

void Reducer::begin_round(int64_t round, std::optional<int64_t> leaf, bool zeros) {
  if (std::exchange(abandoned_, false))
    finish();  // no old reduction may write to memory of this round
  else if (round == 0)
    ++step_;
  if (round == 0) sums_of_step_.clear();
  round_ = round;
  leaf_ = leaf;
  if (leaf) place_ = sums_of_step_.place(*leaf, static_cast<int64_t>(assignment_.leaves.size()));
  zeros_ = zeros;
  for (auto& [unit, slot] : slots_) slot = {};
}

void Reducer::end_round() {
  if (leaf_) sums_of_step_.take(place_);
}

uint64_t Reducer::round_time() const {
  return step_ * static_cast<uint64_t>(assignment_.rounds) +
         static_cast<uint64_t>(by_round_ ? leaf_.value() : round_);
}

uint64_t Reducer::label(const Unit& unit, uint64_t time) const {
  return unit.label() + (1 + time % times_) * units_;
}

void Reducer::abandon_round() {
  abandoned_ = true;
  for (auto& [unit, slot] : slots_) {
    const bool reduced =
        std::any_of(pending_.begin(), pending_.end(),
                    [&buffer = slot.buffer](const Pending& p) { return p.buffer == buffer; });
    if (slot.buffer && !reduced) slot.buffer->taken = false;
    if (slot.begun) drop_gradients(*unit);
    slot = {};
  }
}

int64_t Reducer::buffer_elements(const Unit& unit) const {
  int64_t elements = 0;
  for (const auto& section : unit.sections())
    if (section->trained()) elements += section->layout().total();
  return elements;
}

// Prefers to wait for a reduction over growing. But a unit around other units keeps its buffer
// while theirs come and go.
Reducer::Buffer& Reducer::take_buffer(const Unit& unit) {
  const int64_t elements = buffer_elements(unit);
  if (unit.is_root()) {
    if (!root_buffer_.memory.defined()) root_buffer_.memory = shared_zeros(elements, *mesh_.shard);
    if (root_buffer_.taken) settle(unit);
    root_buffer_.taken = true;
    return root_buffer_;
  }
  while (true) {
    for (Buffer& buffer : buffers_) {
      if (buffer.taken || buffer.memory.numel() < elements) continue;
      buffer.taken = true;
      return buffer;
    }
    if (buffers_.size() >= kBuffers && !pending_.empty()) {
      settle_front();
      continue;
    }
    buffers_.push_back({shared_zeros(largest_, *mesh_.shard), true});
    return buffers_.back();
  }
}

void Reducer::begin(Unit& unit) {
  Slot& slot = slots_.at(&unit);
  if (std::exchange(slot.begun, true) || unit.trained() == 0) return;
  if (by_round_) slot.buffer = &take_buffer(unit);
  if (!leaf_) return;
  int64_t offset = 0;
  for (const auto& section : unit.sections()) {
    if (!section->trained()) continue;
    const Tensor place = place_of(*section, slot, offset);
    if (zeros_)
      place.zero_();
    else
      section->point_gradients(place);
    offset += section->layout().total();
  }
}

Tensor Reducer::place_of(const Section& section, const Slot& slot, int64_t offset) {
  if (by_round_) return slot.buffer->memory.narrow(0, offset, section.layout().total());
  Sum& sum = sum_of(section);
  const Tensor waits = sum.whole.target(place_);
  return waits.defined() ? waits : sum.total;
}

void Reducer::complete(Unit& unit) {
  if (unit.trained() == 0) return;
  Slot& slot = slots_.at(&unit);
  check(slot.begun, "[fsdp] gradients of unit '", unit.name(), "' are complete but never began");
  drop_gradients(unit);
  if (by_round_) return reduce_round(unit, *slot.buffer);
  if (leaf_)
    for (const auto& section : unit.sections())
      if (section->trained()) sum_of(*section).whole.fold(place_of(*section, slot, 0), place_);
  if (last_round()) reduce_total(unit);
}

// Starts to reduce one section to its owners: f32 [total] → f32 [slice]. `output` is valid once the
// reduction is settled.
void Reducer::scatter(Pending& pending, const Tensor& output, const Tensor& input) {
  pending.outputs.push_back(output);
  pending.received.push_back(
      travels_ == DType::f32 ? output : Tensor::empty(output.shape(), travels_, output.device()));
  pending.works.push_back(mesh_.shard->reduce_scatter(
      pending.received.back(), input.to(travels_),
      {.tree = &assignment_.row_tree, .label = label(*pending.unit, round_time())}));
}

void Reducer::reduce_round(Unit& unit, Buffer& buffer) {
  settle(unit);  // the previous round must be added to its sums first
  Pending pending{.unit = &unit,
                  .buffer = &buffer,
                  .place = place_,
                  .last = last_round(),
                  .works = {},
                  .received = {},
                  .outputs = {}};
  int64_t offset = 0;
  for (const auto& section : unit.sections()) {
    if (!section->trained()) continue;
    Sum& sum = sum_of(*section);
    const Tensor slot = sum.shards.target(place_);
    const int64_t total = section->layout().total();
    scatter(pending, slot.defined() ? slot : sum.gradient, buffer.memory.narrow(0, offset, total));
    offset += total;
  }
  pending_.push_back(std::move(pending));
}

void Reducer::reduce_total(Unit& unit) {
  Pending pending{.unit = &unit,
                  .buffer = nullptr,
                  .place = {},
                  .last = true,
                  .works = {},
                  .received = {},
                  .outputs = {}};
  for (const auto& section : unit.sections()) {
    if (!section->trained()) continue;
    Sum& sum = sum_of(*section);
    if (mesh_.columns() > 1)
      scatter(pending, sum.gradient, sum.total);
    else if (mesh_.rows() > 1)
      replicas_.emplace_back(
          &unit, mesh_.replicate->all_reduce(sum.gradient, {.tree = &assignment_.replica_tree,
                                                            .label = label(unit, step_)}));
  }
  if (mesh_.columns() > 1) pending_.push_back(std::move(pending));
}

void Reducer::wait_for(const comm::Work& work, const Unit& unit) {
  const auto start = Clock::now();
  wait(work, "reducing the gradients of", unit);
  exposed_.add(std::chrono::duration_cast<Duration>(Clock::now() - start));
  exposed_.add(work);
}

void Reducer::settle_front() {
  Pending done = std::move(pending_.front());
  pending_.pop_front();
  for (const comm::Work& work : done.works) wait_for(work, *done.unit);
  if (done.buffer) done.buffer->taken = false;
  size_t i = 0;
  for (const auto& section : done.unit->sections()) {
    if (!section->trained()) continue;
    Sum& sum = sum_of(*section);
    const Tensor& output = done.outputs[i];
    if (const Tensor& received = done.received[i++]; received.dtype() != output.dtype())
      output.copy_(received);
    if (by_round_) sum.shards.fold(output, done.place);
    if (done.last && mesh_.rows() > 1)
      replicas_.emplace_back(done.unit, mesh_.replicate->all_reduce(
                                            sum.gradient, {.tree = &assignment_.replica_tree,
                                                           .label = label(*done.unit, step_)}));
  }
}

void Reducer::settle(const Unit& unit) {
  while (std::any_of(pending_.begin(), pending_.end(),
                     [&](const Pending& p) { return p.unit == &unit; }))
    settle_front();
}

void Reducer::finish() {
  while (!pending_.empty()) settle_front();
  for (const auto& [unit, work] : replicas_) wait_for(work, *unit);
  replicas_.clear();
}

}  // namespace lockstep::fsdp
