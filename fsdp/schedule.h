// Schedule: when units are gathered and let go.
//
// A unit is gathered before its forward pass and before its backward pass, and stays while either runs. Beyond that it stays until its
// room is needed: at most `units_in_flight` are whole at a time (more only where units lie inside of each other), the
// least recently used one goes first. The units that come next – in the order of the pass before, and for backward in the
// reverse order of forward – are fetched ahead into the same room.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/base/clock.h"
#include "fsdp/unit.h"

namespace lockstep::fsdp {

class Schedule {
 public:
  Schedule(const std::vector<std::unique_ptr<Unit>>& units, const Options& options);

  void before_forward(Unit& unit);
  // `recorded`: backward will come. Returns the number of the use, for before_backward().
  size_t after_forward(Unit& unit, bool recorded);
  void before_backward(Unit& unit, size_t use);
  // Nothing more in this backward pass needs the unit's parameters.
  void backward_done(Unit& unit);
  // The backward pass is over.
  void end_micro_batch();
  // The parameters are about to change: everything is let go, and nothing is under way any more.
  void end_step();

  // How long this rank was held up by gathers since the last call.
  Duration take_exposed() { return std::exchange(exposed_, Duration::zero()); }

 private:
  struct Entry {
    Unit* unit = nullptr;
    int forwards = 0;  // passes that are running
    bool in_backward = false;
    uint64_t last_used = 0;
    bool in_use() const { return forwards > 0 || in_backward; }
  };
  struct Use {  // one forward pass of a unit
    size_t unit;
    uint64_t begin, end;
  };

  size_t index_of(const Unit& unit) const { return static_cast<size_t>(unit.label() - 1); }
  void forget_unfinished();
  void require(size_t unit);
  bool make_room(bool for_certain);
  void fetch_ahead(const std::function<bool(int step, size_t& unit)>& next);
  bool is_root(size_t unit) const { return unit == 0; }

  std::vector<Entry> entries_;  // by unit
  const int units_in_flight_;
  const int ahead_;
  uint64_t clock_ = 0;
  int depth_ = 0;
  std::vector<size_t> order_, last_order_;  // of forward passes: this one's so far, and the one's before
  std::vector<uint64_t> begins_;            // of the forward passes that are running
  std::vector<Use> uses_;                   // that backward will visit
  Duration exposed_{};
};

}  // namespace lockstep::fsdp
