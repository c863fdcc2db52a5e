// Unit: what is gathered, computed and let go as one, and whether its parameters are here.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fsdp/options.h"
#include "fsdp/section.h"
#include "fsdp/wrap.h"

namespace lockstep::fsdp {

// Parameters of a unit that share a flat buffer, and the dtype in which they travel.
struct SectionPlan {
  DType wire;
  std::vector<Parameter> parameters;
};
// Of one dtype, one wire dtype, one device, and all trained or all frozen; in order of first
// appearance. `columns`: ranks of a row.
std::vector<SectionPlan> plan_sections(const UnitPlan& unit, int columns, const Options& options);

class Unit {
 public:
  enum class State : uint8_t {
    sharded,    // this rank has its slice
    gathering,  // a gather is under way
    gathered,   // all values are here
  };

  // Collective. `index`: the unit's number from 0 on; 0 is the root. `label`: of its collectives,
  // the same on all ranks, and no other unit's or model's.
  Unit(UnitPlan plan, size_t index, uint64_t label, const Mesh& mesh, const Options& options);
  Unit(const Unit&) = delete;
  Unit& operator=(const Unit&) = delete;

  const std::string& name() const { return plan_.name; }
  nn::Module& module() const { return *plan_.module; }
  size_t index() const { return index_; }
  uint64_t label() const { return label_; }
  bool is_root() const { return index_ == 0; }
  const std::vector<std::unique_ptr<Section>>& sections() const { return sections_; }
  // Trained parameters; all of them lie in sections for which trained() holds.
  int64_t trained() const { return trained_; }
  bool has_frozen() const { return static_cast<int64_t>(plan_.parameters.size()) > trained_; }

  State state() const { return state_; }
  // The values are about to be used: they must stay as they are until values_changed().
  void hold_values();
  // Whether this rank's slices have changed since.
  bool changed() const;
  // What somebody did to values that are in use, for messages (Section); empty: nothing.
  std::string written_parameter() const;
  std::string written_slices() const;
  // sharded → gathering: over the row, or once that has been done in this step, over the nearby
  // ranks.
  void start_gather();
  // gathering → gathered. Throws what the gather failed with, naming the unit.
  void wait_gathered();
  // gathered → sharded.
  void release();
  // While gathered: lets the parameters view the values, or takes the view away, so that the next
  // read is noticed. On one rank the view stays. `until_changed`: at most until this rank's slices
  // change.
  void show(bool until_changed = false);
  void hide();
  // The masters may have changed; not while gathered or gathering.
  void values_changed();
  // Runs when a parameter is read that has no view of its values: may gather the unit and show it.
  void set_on_read(std::function<void()> read) { on_read_ = std::move(read); }

 private:
  UnitPlan plan_;
  size_t index_;
  uint64_t label_;
  const Mesh& mesh_;
  std::function<void()> on_read_;
  std::vector<std::unique_ptr<Section>> sections_;
  int64_t trained_ = 0;

  State state_ = State::sharded;
  bool shown_ = false;
  std::vector<Tensor> whole_;  // by section, while gathering and gathered
  std::vector<comm::Work> works_;
  bool nearby_is_there_ = false;  // the second shards hold this step's values
};

// Waits for a collective on behalf of a unit: what it failed with says so. `what`: "gathering".
void wait(const comm::Work& work, std::string_view what, const Unit& unit);

}  // namespace lockstep::fsdp
