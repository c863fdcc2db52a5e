#include "comm/device_mesh.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

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

// "{replicate, shard}".
std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += str(text.empty() ? "{" : ", ", name);
  return text + "}";
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
  if (is_same_text(world, mine)) return;
  const std::vector<std::string> all = all_gather_text(world, mine);
  for (size_t rank = 0; rank < all.size(); ++rank)
    check(all[rank] == all[0], "[mesh] ranks 0 and ", rank, " ask for different meshes: ", all[0],
          " and ", all[rank]);
}

}  // namespace

// What a mesh and its submeshes share: the grid that the constructor made, and its groups.
struct DeviceMesh::Grid {
  std::shared_ptr<ProcessGroup> world;
  std::vector<MeshDimension> dimensions = {};
  std::vector<int> coordinates = {};
  std::map<Axes, std::shared_ptr<ProcessGroup>> groups = {};
  std::map<std::string, Axes, std::less<>> flattened = {};

  int size(const Axes& axes) const {
    int size = 1;
    for (const size_t axis : axes) size *= dimensions[axis].size;
    return size;
  }
  int coordinate(const Axes& axes) const {
    int coordinate = 0;
    for (const size_t axis : axes)
      coordinate = coordinate * dimensions[axis].size + coordinates[axis];
    return coordinate;
  }

  // Returns the group of ranks that differ from this one in these dimensions only. It creates a
  // group that does not exist yet, which is a collective call.
  const std::shared_ptr<ProcessGroup>& span(const Axes& axes) {
    const auto found = groups.find(axes);
    if (found != groups.end()) return found->second;
    std::shared_ptr<ProcessGroup> group = world;
    if (size(axes) != world->size()) {
      // The color is the lowest rank of the group: this rank's coordinates, with 0 in the
      // dimensions that the group spans.
      int first = 0;
      for (size_t axis = 0; axis < dimensions.size(); ++axis) {
        const bool inside = std::find(axes.begin(), axes.end(), axis) != axes.end();
        first = first * dimensions[axis].size + (inside ? 0 : coordinates[axis]);
      }
      group = world->split(first, coordinate(axes));
    }
    return groups.emplace(axes, std::move(group)).first->second;
  }
};

DeviceMesh::DeviceMesh(std::shared_ptr<ProcessGroup> world, std::vector<MeshDimension> dimensions)
    : dimensions_(resolve(std::move(dimensions), world->size())), world_(std::move(world)) {
  check_same(*world_, describe());
  grid_ = std::make_shared<Grid>(Grid{.world = world_, .dimensions = dimensions_});
  grid_->coordinates.resize(dimensions_.size());
  int rank = world_->rank();
  for (size_t i = dimensions_.size(); i-- > 0; rank /= dimensions_[i].size)
    grid_->coordinates[i] = rank % dimensions_[i].size;
  for (size_t i = 0; i < dimensions_.size(); ++i) {
    axes_.push_back({i});
    grid_->span(axes_.back());
  }
}

DeviceMesh::DeviceMesh(std::shared_ptr<Grid> grid, std::vector<MeshDimension> dimensions,
                       std::vector<Axes> axes)
    : grid_(std::move(grid)), dimensions_(std::move(dimensions)), axes_(std::move(axes)) {
  Axes all;
  for (const Axes& each : axes_) all.insert(all.end(), each.begin(), each.end());
  world_ = grid_->span(all);
}

const DeviceMesh::Axes* DeviceMesh::find(std::string_view name) const {
  for (size_t i = 0; i < dimensions_.size(); ++i)
    if (dimensions_[i].name == name) return &axes_[i];
  const auto flattened = grid_->flattened.find(name);
  if (flattened == grid_->flattened.end()) return nullptr;
  const auto mine = [&](size_t axis) {
    return std::any_of(axes_.begin(), axes_.end(), [&](const Axes& axes) {
      return std::find(axes.begin(), axes.end(), axis) != axes.end();
    });
  };
  const Axes& axes = flattened->second;
  return std::all_of(axes.begin(), axes.end(), mine) ? &axes : nullptr;
}

const DeviceMesh::Axes& DeviceMesh::axes_of(std::string_view name) const {
  const Axes* axes = find(name);
  check(axes != nullptr, "[mesh] no dimension '", name, "' in ", describe());
  return *axes;
}

std::vector<DeviceMesh::Axes> DeviceMesh::axes_of(const std::vector<std::string>& names) const {
  check(!names.empty(), "[mesh] expected at least one dimension of ", describe());
  std::vector<Axes> all;
  for (const std::string& name : names) {
    const Axes& axes = axes_of(name);
    check(std::count(names.begin(), names.end(), name) == 1, "[mesh] '", name,
          "' appears twice in ", list(names));
    for (size_t i = 0; i < all.size(); ++i)
      check(all[i].back() < axes.front(), "[mesh] ", list(names), " is not in the order of ",
            describe(), ": '", names[i], "' does not end before '", name, "' begins");
    all.push_back(axes);
  }
  return all;
}

DeviceMesh DeviceMesh::submesh(const std::vector<std::string>& names) const {
  std::vector<Axes> axes = axes_of(names);
  Axes together;
  std::vector<MeshDimension> dimensions;
  for (size_t i = 0; i < names.size(); ++i) {
    dimensions.push_back({names[i], grid_->size(axes[i])});
    together.insert(together.end(), axes[i].begin(), axes[i].end());
  }
  if (grid_->groups.count(together) == 0)
    check_same(*grid_->world, str(list(names), " of ", comm::describe(grid_->dimensions)));
  return {grid_, std::move(dimensions), std::move(axes)};
}

DeviceMesh DeviceMesh::flatten(const std::vector<std::string>& names,
                               const std::string& name) const {
  Axes together;
  for (const Axes& axes : axes_of(names)) together.insert(together.end(), axes.begin(), axes.end());
  check(!name.empty(), "[mesh] ", list(names), " is flattened to a dimension without a name");
  const std::vector<MeshDimension>& taken = grid_->dimensions;
  check(std::none_of(taken.begin(), taken.end(), [&](const auto& d) { return d.name == name; }),
        "[mesh] ", list(names), " cannot be flattened to '", name, "', which is a dimension of ",
        comm::describe(taken));
  const auto known = grid_->flattened.find(name);
  check(known == grid_->flattened.end() || known->second == together, "[mesh] ", list(names),
        " cannot be flattened to '", name, "': other dimensions are already");
  if (known == grid_->flattened.end()) {
    check_same(*grid_->world,
               str(list(names), " of ", comm::describe(taken), " flattened to '", name, "'"));
    grid_->flattened.emplace(name, together);
  }
  return {grid_, {{name, grid_->size(together)}}, {together}};
}

bool DeviceMesh::has(std::string_view name) const { return find(name) != nullptr; }
int DeviceMesh::size(std::string_view name) const { return grid_->size(axes_of(name)); }
int DeviceMesh::coordinate(std::string_view name) const { return grid_->coordinate(axes_of(name)); }
const std::shared_ptr<ProcessGroup>& DeviceMesh::group(std::string_view name) const {
  return grid_->groups.at(axes_of(name));
}
std::string DeviceMesh::describe() const { return comm::describe(dimensions_); }

}  // namespace lockstep::comm
