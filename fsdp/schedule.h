// Schedule: when units are gathered and let go.
//
// A unit is gathered before its forward pass and before its backward pass, and stays while either
// runs. Beyond that it stays until its room is needed: at most `units_in_flight` are whole at a
// time, the least recently used one goes first. More are whole only where units lie inside of each
// other, and where a parameter is read outside of its unit's forward: that gathers the unit without
// making room, since the operation that reads may look at other units, too. The next forward or
// backward pass of a unit makes the room. Parameters view their values while their unit is in use;
// else each read of a unit between two passes is noticed once, whether or not the unit is whole:
// which ones are whole may depend on the rank. The units that come next are fetched ahead into the
// same room: in the order of the pass before, and for backward in the reverse order of forward.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/base/clock.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

// One recorded forward pass of a unit, which backward will visit. The graph owns it: forward passes
// may come in any order with their backward passes, or stay without one.
struct Use {
  size_t unit;
  uint64_t begin, end;  // on the schedule's clock
  uint64_t pass;        // the outermost forward pass that it belongs to
  uint64_t step;
  // The units of the uses before this one, which backward will visit after it: trail[0 ..
  // position).
  std::shared_ptr<const std::vector<size_t>> trail;
  size_t position;
  mutable uint64_t backward = 0;  // the last backward pass that came to it
};

class Schedule {
 public:
  Schedule(const std::vector<std::unique_ptr<Unit>>& units, const Options& options);

  void before_forward(Unit& unit);
  // `recorded`: backward will come. Returns the use for before_backward(); null if not recorded.
  std::shared_ptr<const Use> after_forward(Unit& unit, bool recorded);
  // For each output of the use that backward comes to; only the first one in a backward pass
  // counts.
  void before_backward(Unit& unit, const Use& use);
  // A parameter of the unit is read while the unit is not in use. The view of its values ends when
  // this rank's slices change.
  void read(Unit& unit);
  // The same where the read must be no part of what ranks do together: nothing happens unless the
  // unit is whole, with the values of now. It can be read until they change.
  void peek(Unit& unit);
  // Nothing more in this backward pass needs the unit's parameters.
  void backward_done(Unit& unit);
  // The backward pass of a micro-batch begins. No forward pass runs then: those that did not end
  // threw.
  void begin_micro_batch();
  // It is over.
  void end_micro_batch();
  // The parameters are about to change: everything is let go, and nothing is under way any more.
  void end_step();
  // The same, but graphs that were recorded before may still be differentiated.
  void release_all();

  // Whether the forward pass of any unit runs, and the number of the outermost one that began last.
  bool in_forward() const { return !running_.empty(); }
  uint64_t pass() const { return pass_; }
  // Whether any unit is whole, or on its way, that will be let go.
  bool has_gathered() const;
  // Whether the graph of a recorded pass is alive that ran since all units were last let go.
  bool has_open_graphs() const;
  // False where the parameters have changed since.
  bool is_current(const Use& use) const { return use.step == step_; }

  // How long this rank was held up by gathers since the last call.
  Duration take_exposed() { return std::exchange(exposed_, Duration::zero()); }

 private:
  struct Entry {
    Unit* unit = nullptr;
    int forwards = 0;  // passes that are running
    bool in_backward = false;
    uint64_t visited = 0;  // while in backward: when the use that it came to last began
    uint64_t last_used = 0;
    bool in_use() const { return forwards > 0 || in_backward; }
    void hide_unless_used() const {
      if (!in_use()) unit->hide();
    }
  };

  void forget_unfinished();
  void forget_innermost();
  void hide_seen();
  void require(size_t unit);
  void gather(size_t unit, bool may_evict);
  bool make_room(bool for_certain);
  void fetch_ahead(const std::function<bool(int step, size_t& unit)>& next);
  bool is_root(size_t unit) const { return unit == 0; }

  std::vector<Entry> entries_;  // by unit
  const int units_in_flight_;
  const int ahead_;
  uint64_t clock_ = 0, pass_ = 0, backward_ = 1, step_ = 0;
  std::vector<size_t> seen_;  // units that were shown for reads since the last pass began
  // Of forward passes: this one's so far, and the one's before.
  std::vector<size_t> order_, last_order_;
  struct Running {
    size_t unit;
    uint64_t begin;
  };
  std::vector<Running> running_;  // forward passes, the outermost first
  std::vector<std::weak_ptr<const Use>>
      graphs_;  // of outermost passes since all units were last let go
  std::shared_ptr<std::vector<size_t>> trail_ = std::make_shared<std::vector<size_t>>();
  Duration exposed_{};
};

}  // namespace lockstep::fsdp
