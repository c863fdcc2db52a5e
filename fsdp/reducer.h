// Reducer: reduces the gradients of units to their owners, and sums them over a step's
// micro-batches.
//
// A unit's gradients share one flat buffer, from the first to the last gradient of a round. Then
// there are two ways (mesh.h). By round: a reduce-scatter over the row starts at once, the owner
// adds its slice to those of earlier rounds, and the buffer serves the next unit. In full: the rank
// first sums its own micro-batches in permanent buffers, and the reduce-scatter runs in the step's
// last round. Finally the sums of the rows are added over the replicas. All sums follow the order
// of one tree over the step's micro-batches.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "comm/exposure.h"
#include "core/base/clock.h"
#include "core/tensor/binary_counter.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

class Reducer {
 public:
  // Buffers for units that are differentiated one after the other: one is filled while the other
  // one is reduced.
  static constexpr size_t kBuffers = 2;
  // After this many rounds, the labels of a unit's reductions repeat. No two micro-batches of a
  // step share a label, so ranks with different orders fail instead of mixing them. A rank that
  // repeats a round by itself repeats its label and so cannot match a later round of the others.
  // Each round takes `units` labels, which follow the labels of the units.
  static uint64_t times(int64_t micro_batches);

  // `times`: see times(), for the step's micro-batches. `travels`: the dtype of gradients in
  // communication, f32 or bf16.
  Reducer(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh, Assignment assignment,
          uint64_t times, DType travels = DType::f32);

  // Micro-batches of a rank may come in any order, as indices into its leaves. These return the
  // first one that is not done, and whether one is done.
  int64_t next_leaf() const { return sums_of_step_.next(); }
  bool is_done(int64_t leaf) const { return sums_of_step_.has(leaf); }
  // Begins a round of the step. `leaf`: this rank's micro-batch whose gradients come next; none:
  // this rank has no more and just takes part with the others. `zeros`: it has no input for the
  // micro-batch and adds zeros.
  void begin_round(int64_t round, std::optional<int64_t> leaf, bool zeros);
  void end_round();
  // The round ended in an exception and will be repeated, which overwrites what it has summed so
  // far.
  void abandon_round();
  // Gives the unit's gradients memory, once in a round. None of them may have arrived.
  void begin(Unit& unit);
  bool begun(const Unit& unit) const { return slots_.at(&unit).begun; }
  // All gradients of the unit have arrived. Takes their memory away, so no later gradient can be
  // lost in it.
  void complete(Unit& unit);
  // Waits until this rank's slices hold the step's sums.
  void finish();
  // How long this rank waited for communication since the last call.
  comm::Exposure take_exposed() { return exposed_.take(); }

  // This rank's slice of the summed gradients of a trained section, f32 [slice].
  const Tensor& gradient(const Section& section) const { return sums_.at(&section).gradient; }

 private:
  struct Sum {  // for one trained section
    Tensor gradient;
    BinaryCounter shards, whole;
    Tensor total;  // this rank's own sum, [total]; only in full
  };
  struct Buffer {
    Tensor memory;
    bool taken = false;
  };
  struct Slot {  // for one unit in the current round
    bool begun = false;
    Buffer* buffer = nullptr;
  };
  struct Pending {
    Unit* unit;
    Buffer* buffer;
    SumSlots::Place place;  // place of the round's sum among the sums of the step
    bool last;              // whether it is the last round
    // By trained section. Received values are copied to the output unless it is the same tensor.
    std::vector<comm::Work> works;
    std::vector<Tensor> received, outputs;
  };

  // `time`: the step for sums over rows, the round for sums within a row.
  uint64_t label(const Unit& unit, uint64_t time) const;
  Sum& sum_of(const Section& section) { return sums_.at(&section); }
  int64_t buffer_elements(const Unit& unit) const;
  Buffer& take_buffer(const Unit& unit);
  Tensor place_of(const Section& section, const Slot& slot, int64_t offset);
  void scatter(Pending& pending, const Tensor& output, const Tensor& input);
  void reduce_round(Unit& unit, Buffer& buffer);
  void reduce_total(Unit& unit);
  void settle_front();
  void settle(const Unit& unit);
  void wait_for(const comm::Work& work, const Unit& unit);
  bool last_round() const { return round_ + 1 == assignment_.rounds; }
  // The time of the round's reduce-scatter. It tells ranks with different orders apart.
  uint64_t round_time() const;

  const Mesh& mesh_;
  const Assignment assignment_;
  const uint64_t units_, times_;
  const bool by_round_;
  const DType travels_;
  int64_t largest_ = 0;  // elements of the largest unit's gradients, without the root
  std::map<const Section*, Sum> sums_;
  std::map<const Unit*, Slot> slots_;
  Buffer root_buffer_;  // the root's gradients arrive during the whole backward pass
  std::deque<Buffer> buffers_;
  std::deque<Pending> pending_;
  std::vector<std::pair<const Unit*, comm::Work>> replicas_;

  uint64_t step_ = 0;
  int64_t round_ = 0;
  std::optional<int64_t> leaf_;
  SumSlots sums_of_step_;
  SumSlots::Place place_;  // the place of the round's leaf
  bool zeros_ = false, abandoned_ = false;
  comm::Exposure exposed_;
};

}  // namespace lockstep::fsdp
