#include "fsdp/unit.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "comm/peer_failure.h"
#include "core/device/allocator.h"

namespace lockstep::fsdp {
namespace {

DType wire_dtype(const Parameter& parameter, int columns, const Options& options) {
  const bool low = columns > 1 && parameter.dtype() == DType::f32 && options.low_precision &&
                   options.low_precision(parameter);
  return low ? options.compute : parameter.dtype();
}

}  // namespace

std::vector<SectionPlan> plan_sections(const UnitPlan& unit, int columns, const Options& options) {
  const auto kind = [](const Parameter& p, DType wire) {
    return std::tuple(p.dtype(), wire, p.requires_grad(), p.device());
  };
  std::vector<SectionPlan> plans;
  for (const Parameter& p : unit.parameters) {
    const DType wire = wire_dtype(p, columns, options);
    auto at = std::find_if(plans.begin(), plans.end(), [&](const SectionPlan& known) {
      return kind(known.parameters.front(), known.wire) == kind(p, wire);
    });
    if (at == plans.end()) at = plans.insert(plans.end(), {wire, {}});
    at->parameters.push_back(p);
  }
  return plans;
}

Unit::Unit(UnitPlan plan, size_t index, uint64_t label, const Mesh& mesh, const Options& options)
    : plan_(std::move(plan)), index_(index), label_(label), mesh_(mesh) {
  const Owner owner{plan_.name, [this] {
                      if (on_read_) on_read_();
                    }};
  for (const Parameter& p : plan_.parameters) trained_ += p.requires_grad() ? 1 : 0;
  for (SectionPlan& section : plan_sections(plan_, mesh.columns(), options))
    sections_.push_back(std::make_unique<Section>(std::move(section.parameters), section.wire, mesh,
                                                  owner, options.own_memory));
  if (mesh.columns() == 1) {
    state_ = State::gathered;
    shown_ = true;
  }
}

void Unit::start_gather() {
  check(state_ == State::sharded, "[fsdp] unit '", name(), "' is gathered already");
  hold_values();
  comm::ProcessGroup& group = nearby_is_there_ ? *mesh_.nearby : *mesh_.shard;
  // If an earlier call threw, discard what it began and gather all sections again.
  whole_.clear();
  works_.clear();
  for (const auto& section : sections_) {
    const Tensor& mine = nearby_is_there_ ? section->nearby() : section->wire();
    MemoryScope scope(MemoryCategory::gathered);
    whole_.push_back(Tensor::empty({section->layout().total()}, mine.dtype(), mine.device()));
    works_.push_back(group.all_gather(whole_.back(), mine, label_));
  }
  state_ = State::gathering;
}

std::vector<comm::Work> Unit::wait_gathered() {
  check(state_ == State::gathering, "[fsdp] unit '", name(), "' is not being gathered");
  for (size_t i = 0; i < sections_.size(); ++i) {
    wait(works_[i], "gathering", *this);
    if (!mesh_.nearby || nearby_is_there_) continue;
    const Tensor& mine = sections_[i]->nearby();
    mine.copy_(whole_[i].narrow(0, mine.numel() * mesh_.nearby->rank(), mine.numel()));
  }
  nearby_is_there_ = mesh_.nearby != nullptr;
  state_ = State::gathered;
  return std::exchange(works_, {});
}

void Unit::release() {
  if (mesh_.columns() == 1) return;
  check(state_ == State::gathered, "[fsdp] unit '", name(), "' is not gathered");
  hide();
  for (const auto& section : sections_) section->drop_copies();
  whole_.clear();
  state_ = State::sharded;
}

void Unit::show(bool until_changed) {
  check(state_ == State::gathered, "[fsdp] unit '", name(), "' is not gathered");
  if (std::exchange(shown_, true)) return;
  for (size_t i = 0; i < sections_.size(); ++i) sections_[i]->attach(whole_[i], until_changed);
}

void Unit::hide() {
  if (mesh_.columns() == 1 || !std::exchange(shown_, false)) return;
  for (const auto& section : sections_) section->detach();
}

void wait(const comm::Work& work, std::string_view what, const Unit& unit) {
  try {
    work.wait();
  } catch (const std::exception& e) {
    std::rethrow_exception(comm::reworded(e, str("[fsdp] ", what, " unit '", unit.name(),
                                                 "' (label ", unit.label(), "): ", e.what())));
  }
}

void Unit::hold_values() {
  for (const auto& section : sections_) section->hold_values();
}

bool Unit::changed() const {
  return std::any_of(sections_.begin(), sections_.end(),
                     [](const auto& section) { return section->changed(); });
}

std::string Unit::written_parameter() const {
  for (const auto& section : sections_)
    if (std::string what = section->written_parameter(); !what.empty()) return what;
  return {};
}

std::string Unit::written_slices() const {
  for (const auto& section : sections_)
    if (std::string what = section->written_slices(); !what.empty()) return what;
  return {};
}

void Unit::values_changed() {
  for (const auto& section : sections_) section->master_changed();
  nearby_is_there_ = false;
}

}  // namespace lockstep::fsdp
