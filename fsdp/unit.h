// Unit: parameters that are gathered, computed and released together, and their current state.
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

// Parameters of a unit that share a flat buffer, and the dtype in which they are gathered.
struct SectionPlan {
  DType wire;
  std::vector<Parameter> parameters;
};
// Groups parameters by dtype, wire dtype, device, and trained or frozen, in order of first
// appearance. `columns`: ranks in a row.
std::vector<SectionPlan> plan_sections(const UnitPlan& unit, int columns, const Options& options);

class Unit {
 public:
  enum class State : uint8_t {
    sharded,    // this rank has only its slice
    gathering,  // a gather is running
    gathered,   // all values are present
  };

  // Collective. `index`: the number of the unit; 0 is the root. `label`: the label of its
  // collectives, equal on all ranks and unique among units and models.
  Unit(UnitPlan plan, size_t index, uint64_t label, const Mesh& mesh, const Options& options);
  Unit(const Unit&) = delete;
  Unit& operator=(const Unit&) = delete;

  const std::string& name() const { return plan_.name; }
  nn::Module& module() const { return *plan_.module; }
  size_t index() const { return index_; }
  uint64_t label() const { return label_; }
  bool is_root() const { return index_ == 0; }
  const std::vector<std::unique_ptr<Section>>& sections() const { return sections_; }
  // The number of trained parameters. They are in sections where trained() is true.
  int64_t trained() const { return trained_; }
  bool has_frozen() const { return static_cast<int64_t>(plan_.parameters.size()) > trained_; }

  State state() const { return state_; }
  // The values will be used now: they must not change until values_changed().
  void hold_values();
  // Whether this rank's slices have changed since.
  bool changed() const;
  // Describes forbidden writes to values in use, for messages (Section); empty if there were none.
  std::string written_parameter() const;
  std::string written_slices() const;
  // sharded → gathering. Gathers over the row; if that was done already in this step, over the
  // nearby ranks.
  void start_gather();
  // gathering → gathered. Returns the calls that it has waited for. Throws the error of the gather
  // and names the unit.
  std::vector<comm::Work> wait_gathered();
  // gathered → sharded.
  void release();
  // While gathered: lets the parameters view the values, or ends the view, so that the next read
  // is noticed. On one rank the view stays. `until_changed`: at most until this rank's slices
  // change.
  void show(bool until_changed = false);
  void hide();
  // The masters may have changed. Do not call while gathered or gathering.
  void values_changed();
  // Runs when a parameter without a view of its values is read. It may gather and show the unit.
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
  bool nearby_is_there_ = false;  // the second, larger shards hold this step's values
};

// Waits for a collective of a unit. Its error names the unit. `what`: "gathering".
void wait(const comm::Work& work, std::string_view what, const Unit& unit);

}  // namespace lockstep::fsdp
