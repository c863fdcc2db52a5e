// Schedule: decides when units are gathered and released.
//
// A unit is gathered before its forward pass and before its backward pass, and stays while either
// of them runs. After that it stays until its room is needed. At most `units_in_flight` units are
// whole at a time; the least recently used one is released first. More are whole only in two cases:
// if units contain each other, and if a parameter is read outside of its unit's forward. Such a
// read gathers the unit without making room, because the same operation may read other units, too;
// the next forward or backward pass makes the room. Parameters view their values while their unit
// is in use. Otherwise the first read between two passes is noticed, whole or not, because ranks
// may differ in which units are whole. The next units are fetched ahead into the same room: in the
// order of the previous pass, and in backward in the reverse order of forward.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/exposure.h"
#include "core/base/clock.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

// One recorded forward pass of a unit, which backward will visit. The graph owns it. Forward and
// backward passes may come in any order, and a forward pass may have no backward pass.
struct Use {
  size_t unit;
  uint64_t begin, end;  // on the schedule's clock
  uint64_t pass;        // the outermost forward pass around it
  uint64_t step;
  // The units of earlier uses, which backward will visit after this one: trail[0 ..
  // position).
  std::shared_ptr<const std::vector<size_t>> trail;
  size_t position;
  mutable uint64_t backward = 0;  // the last backward pass that visited it
};

class Schedule {
 public:
  Schedule(const std::vector<std::unique_ptr<Unit>>& units, const Options& options);

  void before_forward(Unit& unit);
  // `recorded`: backward will come. Returns the use for before_backward(), or null if not recorded.
  std::shared_ptr<const Use> after_forward(Unit& unit, bool recorded);
  // Call for each output of the use that backward visits. Only the first call in a backward pass
  // has an effect.
  void before_backward(Unit& unit, const Use& use);
  // A parameter of the unit is read while the unit is not in use. The view of its values ends when
  // this rank's slices change.
  void read(Unit& unit);
  // The same for a read that the ranks do not make together: does nothing unless the unit is whole,
  // with current values. They can then be read until they change.
  void peek(Unit& unit);
  // Nothing else in this backward pass needs the unit's parameters.
  void backward_done(Unit& unit);
  // The backward pass of a micro-batch begins. No forward pass runs now: any that did not end has
  // thrown.
  void begin_micro_batch();
  // The micro-batch is over.
  void end_micro_batch();
  // The parameters are about to change: releases everything and forgets unfinished passes.
  void end_step();
  // The same, but graphs that were recorded before may still be differentiated.
  void release_all();

  // Whether any unit's forward pass runs, and the number of the last outermost pass that began.
  bool in_forward() const { return !running_.empty(); }
  uint64_t pass() const { return pass_; }
  // Whether any unit that can be released is whole or being gathered.
  bool has_gathered() const;
  // Whether a recorded pass since the last release of all units still has a live graph.
  bool has_open_graphs() const;
  // False if the parameters have changed since.
  bool is_current(const Use& use) const { return use.step == step_; }

  // How long this rank waited for gathers since the last call.
  comm::Exposure take_exposed() { return exposed_.take(); }

 private:
  struct Entry {
    Unit* unit = nullptr;
    int forwards = 0;  // number of running passes
    bool in_backward = false;
    uint64_t visited = 0;  // in backward: the begin of the use that it visited last
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
  std::vector<size_t> seen_;  // units shown for reads since the last pass began
  // The order of units in the current forward pass, and in the previous one.
  std::vector<size_t> order_, last_order_;
  struct Running {
    size_t unit;
    uint64_t begin;
  };
  std::vector<Running> running_;  // running forward passes, the outermost first
  std::vector<std::weak_ptr<const Use>>
      graphs_;  // of outermost passes since the last release of all units
  std::shared_ptr<std::vector<size_t>> trail_ = std::make_shared<std::vector<size_t>>();
  comm::Exposure exposed_;
};

}  // namespace lockstep::fsdp
