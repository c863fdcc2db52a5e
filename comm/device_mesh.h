// DeviceMesh: the ranks of a group as the points of a grid with named dimensions, and a group for
// each line through it. HSDP is the mesh {{"replicate", 2}, {"shard", 4}}: four neighbours share a
// copy of the model, and ranks of equal place in it hold equal slices.
//
// Some of the dimensions of a mesh are a mesh too, as mesh["replicate", "shard"] is in PyTorch, and
// several dimensions can be taken for one, as with PyTorch's _flatten():
//
//   DeviceMesh mesh(world, {{"replicate", 2}, {"shard", 2}, {"tensor", 2}, {"pipeline", 2}});
//   const auto sharded = fsdp::fully_shard(model, mesh.submesh({"replicate", "shard"}));
//   mesh.flatten({"replicate", "shard"}, "data");
//   // Among the four ranks that share this rank's other coordinates.
//   mesh.group("data")->all_reduce(loss);
//
// Ranks are laid out row-major: those that differ in the last dimension alone are neighbours.
// Thread-safety: as ProcessGroup.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/process_group.h"

namespace lockstep::comm {

struct MeshDimension {
  std::string name;
  int size = 0;  // -1 in one dimension at most: what the number of ranks leaves
};

// A mesh and its submeshes share their groups. A copy is the same mesh.
class DeviceMesh {
 public:
  // Collective over `world`; the same dimensions on every rank, with UsageError on all of them
  // where they differ. Throws UsageError, before anything is communicated, for dimensions that
  // cannot be: none, an empty or repeated name, sizes whose product is not the number of ranks.
  DeviceMesh(std::shared_ptr<ProcessGroup> world, std::vector<MeshDimension> dimensions);

  // The ranks that differ from this one in these dimensions alone, as a mesh of them. The names are
  // dimensions of this mesh, or names that flatten() gave, in the order of this mesh. Collective
  // over the whole mesh that the constructor made, by all its ranks with the same names, since a
  // group may have to be formed: UsageError on all of them where they differ. A group of the same
  // dimensions is formed once. Throws UsageError, before anything is communicated, for no names,
  // and for one that the mesh lacks, that is there twice or that is not in order.
  DeviceMesh submesh(const std::vector<std::string>& names) const;
  // The ranks of submesh(names) as a mesh of one dimension, `name`, row-major. From then on the
  // whole mesh knows the name, and so does each submesh that has all of these dimensions. As
  // collective as submesh(). UsageError also where `name` is taken for something else.
  DeviceMesh flatten(const std::vector<std::string>& names, const std::string& name) const;

  const std::vector<MeshDimension>& dimensions() const { return dimensions_; }
  // Whether the mesh has a dimension or a flattened dimension of this name.
  bool has(std::string_view name) const;
  // The functions that take a name throw UsageError for one that the mesh lacks, and say which it
  // has.
  int size(std::string_view name) const;
  // This rank's place in a dimension: its rank in group(name).
  int coordinate(std::string_view name) const;
  // The ranks that differ from this one in this dimension alone, in its order. Of one rank where
  // the size is 1; world() itself where the dimension is the whole mesh.
  const std::shared_ptr<ProcessGroup>& group(std::string_view name) const;
  // All ranks of this mesh. Of a submesh: those that share the coordinates that it leaves out.
  const std::shared_ptr<ProcessGroup>& world() const { return world_; }

  // "replicate 2 x shard 4".
  std::string describe() const;

 private:
  struct Grid;
  using Axes = std::vector<size_t>;  // dimensions of the grid, ascending

  DeviceMesh(std::shared_ptr<Grid> grid, std::vector<MeshDimension> dimensions,
             std::vector<Axes> axes);
  const Axes* find(std::string_view name) const;
  const Axes& axes_of(std::string_view name) const;
  std::vector<Axes> axes_of(const std::vector<std::string>& names) const;

  std::shared_ptr<Grid> grid_;  // that the constructor made
  std::vector<MeshDimension> dimensions_;
  std::vector<Axes> axes_;  // of each dimension: more than one where it is flattened
  std::shared_ptr<ProcessGroup> world_;
};

}  // namespace lockstep::comm
