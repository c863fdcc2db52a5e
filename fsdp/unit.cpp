#include "fsdp/unit.h"

#include <algorithm>
#include <tuple>

#include "comm/peer_failure.h"
#include "core/device/allocator.h"

namespace lockstep::fsdp {
namespace {

DType wire_dtype(const Parameter& parameter, const Mesh& mesh, const Options& options) {
  const bool low = mesh.columns() > 1 && parameter.dtype() == DType::f32 && options.low_precision && options.low_precision(parameter);
  return low ? options.compute : parameter.dtype();
}

}  // namespace

Unit::Unit(UnitPlan plan, uint64_t label, const Mesh& mesh, const Options& options) : plan_(std::move(plan)), label_(label), mesh_(mesh) {
  // What shares a flat buffer; in order of first appearance.
  using Kind = std::tuple<DType, DType, bool, Device>;
  std::vector<std::pair<Kind, std::vector<Parameter>>> kinds;
  for (const Parameter& p : plan_.parameters) {
    const Kind kind{p.dtype(), wire_dtype(p, mesh, options), p.requires_grad(), p.device()};
    auto at = std::find_if(kinds.begin(), kinds.end(), [&](const auto& known) { return known.first == kind; });
    if (at == kinds.end()) at = kinds.insert(kinds.end(), {kind, {}});
    at->second.push_back(p);
    if (p.requires_grad()) ++trained_;
  }
  for (auto& [kind, parameters] : kinds)
    sections_.push_back(std::make_unique<Section>(std::move(parameters), std::get<1>(kind), mesh, plan_.name, options.own_memory));
  if (mesh.columns() == 1) state_ = State::gathered;
}

void Unit::start_gather() {
  check(state_ == State::sharded, "[fsdp] unit '", name(), "' is gathered already");
  comm::ProcessGroup& group = nearby_is_there_ ? *mesh_.nearby : *mesh_.shard;
  for (const auto& section : sections_) {
    const Tensor& mine = nearby_is_there_ ? section->nearby() : section->wire();
    MemoryScope scope(MemoryCategory::gathered);
    incoming_.push_back(Tensor::empty({section->layout().total()}, mine.dtype(), mine.device()));
    works_.push_back(group.all_gather(incoming_.back(), mine, label_));
  }
  state_ = State::gathering;
}

void Unit::wait_gathered() {
  check(state_ == State::gathering, "[fsdp] unit '", name(), "' is not being gathered");
  for (size_t i = 0; i < sections_.size(); ++i) {
    wait(works_[i], "gathering", *this);
    sections_[i]->attach(incoming_[i]);
    if (!mesh_.nearby || nearby_is_there_) continue;
    const Tensor& mine = sections_[i]->nearby();
    mine.copy_(incoming_[i].narrow(0, mine.numel() * mesh_.nearby->rank(), mine.numel()));
  }
  nearby_is_there_ = mesh_.nearby != nullptr;
  works_.clear();
  incoming_.clear();
  state_ = State::gathered;
}

void Unit::release() {
  if (mesh_.columns() == 1) return;
  check(state_ == State::gathered, "[fsdp] unit '", name(), "' is not gathered");
  for (const auto& section : sections_) section->detach();
  state_ = State::sharded;
}

void wait(const comm::Work& work, std::string_view what, const Unit& unit) {
  try {
    work.wait();
  } catch (const std::exception& e) {
    std::rethrow_exception(comm::reworded(e, str("[fsdp] ", what, " unit '", unit.name(), "' (label ", unit.label(), "): ", e.what())));
  }
}

void Unit::values_changed() {
  for (const auto& section : sections_) section->master_changed();
  nearby_is_there_ = false;
}

}  // namespace lockstep::fsdp
