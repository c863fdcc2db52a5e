#include "comm/device_mesh.h"

#include <algorithm>

#include "comm/text.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

std::string describe(const std::vector<MeshDimension>& dimensions) {
  std::string text;
  for (const MeshDimension& d : dimensions)
    text += str(text.empty() ? "" : " x ", d.name, " ", d.size);
  return text;
}

// Fills in a size of -1, and checks that the grid has exactly one point for each rank.
std::vector<MeshDimension> resolve(std::vector<MeshDimension> dimensions, int ranks) {
  check(!dimensions.empty(), "[mesh] expected at least one dimension");
  const std::string given = describe(dimensions);
  MeshDimension* open = nullptr;
  int64_t known = 1;
  for (MeshDimension& d : dimensions) {
    check(!d.name.empty(), "[mesh] a dimension of ", given, " has no name");
    const auto same = [&](const MeshDimension& other) { return other.name == d.name; };
    check(std::count_if(dimensions.begin(), dimensions.end(), same) == 1, "[mesh] '", d.name,
          "' appears twice in ", given);
    check(d.size >= 1 || d.size == -1, "[mesh] expected a size of at least 1 for '", d.name,
          "' (or -1 for what is left), got ", d.size);
    if (d.size == -1) {
      check(open == nullptr, "[mesh] only one size may be left open; both '",
            open ? open->name : "", "' and '", d.name, "' are");
      open = &d;
      continue;
    }
    check(known <= ranks, "[mesh] ", given, " has more than ", ranks, " places, one for each rank");
    known *= d.size;
  }
  if (open) {
    check(known <= ranks && ranks % known == 0, "[mesh] ", ranks, " ranks do not divide by the ",
          known, " of ", given, ", so '", open->name, "' has no size");
    open->size = static_cast<int>(ranks / known);
  }
  check(open || known == ranks, "[mesh] ", given, " has ", known, " places, but there are ", ranks,
        " ranks");
  return dimensions;
}

// All ranks must form the same groups, or they would wait for each other in different ones.
void check_same(ProcessGroup& world, const std::string& mine) {
  const std::vector<std::string> all = all_gather_text(world, mine);
  for (size_t rank = 0; rank < all.size(); ++rank)
    check(all[rank] == all[0], "[mesh] ranks 0 and ", rank, " ask for different meshes: ", all[0],
          " and ", all[rank]);
}

}  // namespace

DeviceMesh::DeviceMesh(std::shared_ptr<ProcessGroup> world, std::vector<MeshDimension> dimensions)
    : world_(std::move(world)), dimensions_(resolve(std::move(dimensions), world_->size())) {
  check_same(*world_, describe());
  coordinates_.resize(dimensions_.size());
  std::vector<int> strides(dimensions_.size());
  int stride = 1;
  for (size_t i = dimensions_.size(); i-- > 0; stride *= dimensions_[i].size) {
    strides[i] = stride;
    coordinates_[i] = world_->rank() / stride % dimensions_[i].size;
  }
  for (size_t i = 0; i < dimensions_.size(); ++i) {
    const bool everybody = dimensions_[i].size == world_->size();
    // The color is the line's first rank: that of this rank with its coordinate in this dimension
    // taken to 0.
    groups_.push_back(
        everybody ? world_
                  : world_->split(world_->rank() - coordinates_[i] * strides[i], coordinates_[i]));
  }
}

size_t DeviceMesh::index(std::string_view name) const {
  for (size_t i = 0; i < dimensions_.size(); ++i)
    if (dimensions_[i].name == name) return i;
  throw UsageError(str("[mesh] no dimension '", name, "' in ", describe()));
}

bool DeviceMesh::has(std::string_view name) const {
  return std::any_of(dimensions_.begin(), dimensions_.end(),
                     [&](const MeshDimension& d) { return d.name == name; });
}
int DeviceMesh::size(std::string_view name) const { return dimensions_[index(name)].size; }
int DeviceMesh::coordinate(std::string_view name) const { return coordinates_[index(name)]; }
const std::shared_ptr<ProcessGroup>& DeviceMesh::group(std::string_view name) const {
  return groups_[index(name)];
}
std::string DeviceMesh::describe() const { return comm::describe(dimensions_); }

}  // namespace lockstep::comm
