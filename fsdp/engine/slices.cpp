#include "fsdp/engine/slices.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/device/allocator.h"

namespace lockstep::fsdp {
namespace {

struct Place {  // where a parameter is
  const Unit* unit;
  const Section* section;
  size_t index;
};

std::vector<std::pair<std::string, Place>> places_by_name(
    const std::vector<std::unique_ptr<Unit>>& units) {
  std::vector<std::pair<std::string, Place>> places;
  for (const auto& unit : units)
    for (const auto& section : unit->sections())
      for (size_t i = 0; i < section->parameters().size(); ++i)
        places.push_back({section->parameters()[i].name(), {unit.get(), section.get(), i}});
  std::sort(places.begin(), places.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return places;
}

Tensor gathered(const Place& place, const Mesh& mesh) {
  const Section& section = *place.section;
  MemoryScope scope(MemoryCategory::gathered);
  const Tensor whole = Tensor::empty({section.layout().total()}, section.master().dtype(),
                                     section.master().device());
  wait(mesh.shard->all_gather(whole, section.master(), place.unit->label()), "gathering",
       *place.unit);
  return whole;
}

}  // namespace

OwnedSlices owned_slices(const nn::Module& module, const std::vector<std::unique_ptr<Unit>>& units,
                         const Reducer& reducer) {
  std::unordered_map<const void*, size_t> index_of;
  for (const Parameter& p : module.parameters()) index_of.emplace(p.impl().get(), index_of.size());
  std::vector<std::pair<size_t, Section::Shard>> found;
  for (const auto& unit : units)
    for (const auto& section : unit->sections())
      for (auto& shard :
           section->shards(section->trained() ? reducer.gradient(*section) : Tensor()))
        found.emplace_back(index_of.at(section->parameters()[shard.parameter].impl().get()),
                           std::move(shard));
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  OwnedSlices owned;
  for (auto& [index, shard] : found) {
    const bool trained = shard.values.requires_grad();
    owned.all.push_back({shard.values.name(), shard.values.data(), shard.spec, index, trained});
    if (trained) owned.trained.push_back(shard.values);
  }
  return owned;
}

void for_each_whole(const std::vector<std::unique_ptr<Unit>>& units, const Mesh& mesh,
                    const std::function<void(const std::string&, const Tensor&)>& use) {
  const Section* here = nullptr;
  Tensor whole;
  for (const auto& [name, place] : places_by_name(units)) {
    if (std::exchange(here, place.section) != place.section) {
      whole = Tensor();
      whole = gathered(place, mesh);
    }
    const Shape& shape = here->parameters()[place.index].shape();
    if (use)
      use(name, whole.narrow(0, here->layout().offset(place.index), shape.numel()).view(shape));
  }
}

}  // namespace lockstep::fsdp
