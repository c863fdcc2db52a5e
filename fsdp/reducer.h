// Reducer: brings the gradients of units to their owners, and sums them over a step's
// micro-batches.
//
// A unit's gradients lie in one flat buffer, from the first gradient of the round that arrives to
// the last. Then, by round (mesh.h): a reduce-scatter over the row starts at once, and the owner
// adds its slice to those of earlier rounds; the buffer serves the next unit. Or in full: the rank
// adds up its own micro-batches first, in buffers that stay, and the reduce-scatter comes with the
// step's last round. What rows have summed is at last added over the replicas. All of it in the
// order of one tree over the step's micro-batches.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/clock.h"
#include "core/tensor/binary_counter.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

class Reducer {
 public:
  // Buffers for units that are differentiated one after the other: one is filled while the other is
  // reduced.
  static constexpr size_t kBuffers = 2;
  // After how many times the labels of a unit's reductions come again, beside the unit's own label.
  // No two micro-batches of a step share one, so ranks that take them in different orders fail
  // instead of mixing them. A rank that tries a round again alone repeats a label, and so meets no
  // later round of the others. Each time takes `units` labels, after those of the units.
  static uint64_t times(int64_t micro_batches);

  // `times`: as above, for the step's micro-batches. `travels`: the dtype of gradients on their
  // way, f32 or bf16.
  Reducer(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh, Assignment assignment,
          uint64_t times, DType travels = DType::f32);

  // A rank's micro-batches come in any order, as indices into its leaves: the first one that is
  // still to be done, and whether one is done.
  int64_t next_leaf() const { return sums_of_step_.next(); }
  bool is_done(int64_t leaf) const { return sums_of_step_.has(leaf); }
  // A round of the step: the gradients of this rank's micro-batch `leaf` are next; none: its
  // micro-batches are through, and it takes part in what the others do. `zeros`: it has no input
  // for the micro-batch, and adds zeros.
  void begin_round(int64_t round, std::optional<int64_t> leaf, bool zeros);
  void end_round();
  // The round ended in an exception, and will be begun again: what it has summed so far is written
  // once more then.
  void abandon_round();
  // Gives the unit's gradients a place, once a round. None of them may have arrived.
  void begin(Unit& unit);
  bool begun(const Unit& unit) const { return slots_.at(&unit).begun; }
  // All gradients of the unit are there. Their place is taken away: no later one can get lost in
  // it.
  void complete(Unit& unit);
  // Waits until this rank's slices hold the step's sums.
  void finish();
  // How long this rank was held up since the last call.
  Duration take_exposed() { return std::exchange(exposed_, Duration::zero()); }

  // This rank's slice of the summed gradients of a trained section, f32 [slice].
  const Tensor& gradient(const Section& section) const { return sums_.at(&section).gradient; }

 private:
  struct Sum {  // of one trained section
    Tensor gradient;
    BinaryCounter shards, whole;
    Tensor total;  // this rank's own sum, [total]; in full only
  };
  struct Buffer {
    Tensor memory;
    bool taken = false;
  };
  struct Slot {  // of one unit, for the round
    bool begun = false;
    Buffer* buffer = nullptr;
  };
  struct Pending {
    Unit* unit;
    Buffer* buffer;
    SumSlots::Place place;  // of the round's sum among those of the step
    bool last;              // round
    // By trained section. What was received is copied to the output where it is another tensor.
    std::vector<comm::Work> works;
    std::vector<Tensor> received, outputs;
  };

  // `time`: of the step for sums over rows, of the round for sums within one.
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
  // Of the round's reduce-scatter. Ranks that take micro-batches in other orders are told apart.
  uint64_t round_time() const;

  const Mesh& mesh_;
  const Assignment assignment_;
  const uint64_t units_, times_;
  const bool by_round_;
  const DType travels_;
  int64_t largest_ = 0;  // elements of the largest unit's gradients, the root aside
  std::map<const Section*, Sum> sums_;
  std::map<const Unit*, Slot> slots_;
  Buffer root_buffer_;  // the root's gradients gather during the whole backward pass
  std::deque<Buffer> buffers_;
  std::deque<Pending> pending_;
  std::vector<std::pair<const Unit*, comm::Work>> replicas_;

  uint64_t step_ = 0;
  int64_t round_ = 0;
  std::optional<int64_t> leaf_;
  SumSlots sums_of_step_;
  SumSlots::Place place_;  // of the round's leaf
  bool zeros_ = false, abandoned_ = false;
  Duration exposed_{};
};

}  // namespace lockstep::fsdp
