// DeviceMesh: the ranks of a group as the points of a grid with named dimensions, and a group for
// each line through it. HSDP is the mesh {{"replicate", 2}, {"shard", 4}}: four neighbours share a
// copy of the model, and ranks of equal place in it hold equal slices.
//
// Some dimensions of a mesh form a mesh themselves, like mesh["replicate", "shard"] in PyTorch.
// Several dimensions can be used as one, like with PyTorch's _flatten():
//
//   DeviceMesh mesh(world, {{"replicate", 2}, {"shard", 2}, {"tensor", 2}, {"pipeline", 2}});
//   const auto sharded = fsdp::fully_shard(model, mesh.submesh({"replicate", "shard"}));
//   mesh.flatten({"replicate", "shard"}, "data");
//   // Among the four ranks that share this rank's other coordinates.
//   mesh.group("data")->all_reduce(loss);
//
// Ranks are laid out row-major: ranks that differ only in the last dimension are neighbours.
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
  int size = 0;  // -1 in at most one dimension: computed from the number of ranks
};

// A mesh and its submeshes share their groups. A copy refers to the same mesh.
class DeviceMesh {
 public:
  // Collective over `world`. All ranks must pass the same dimensions; otherwise every rank throws
  // UsageError. Throws UsageError before any communication for impossible dimensions: none, an
  // empty or repeated name, or sizes whose product is not the number of ranks.
  DeviceMesh(std::shared_ptr<ProcessGroup> world, std::vector<MeshDimension> dimensions);

  // Returns the ranks that differ from this one only in these dimensions, as a mesh. The names are
  // dimensions of this mesh, or names that flatten() gave, in the order of this mesh. Collective
  // over the whole mesh that the constructor made, because a group may have to be formed: all its
  // ranks must pass the same names, or every rank throws UsageError. Each group is formed once.
  // Throws UsageError before any communication for an empty list, and for names that the mesh
  // lacks, that are repeated or that are out of order.
  DeviceMesh submesh(const std::vector<std::string>& names) const;
  // Returns the ranks of submesh(names) as a mesh of one dimension, `name`, in row-major order.
  // Then the whole mesh knows that name, and each submesh with all of these dimensions. Collective
  // like submesh(). Throws UsageError also if `name` is taken.
  DeviceMesh flatten(const std::vector<std::string>& names, const std::string& name) const;

  const std::vector<MeshDimension>& dimensions() const { return dimensions_; }
  // Whether the mesh has a dimension or a flattened dimension with this name.
  bool has(std::string_view name) const;
  // Functions that take a name throw UsageError if the mesh lacks it, and list the names it
  // has.
  int size(std::string_view name) const;
  // This rank's place in a dimension, which is its rank in group(name).
  int coordinate(std::string_view name) const;
  // Returns the ranks that differ from this one only in this dimension, in its order. The group has
  // one rank if the size is 1; it is world() if the dimension is the whole mesh.
  const std::shared_ptr<ProcessGroup>& group(std::string_view name) const;
  // All ranks of this mesh. In a submesh: the ranks that share the coordinates it leaves out.
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

  std::shared_ptr<Grid> grid_;  // made by the constructor
  std::vector<MeshDimension> dimensions_;
  std::vector<Axes> axes_;  // for each dimension; a flattened one has several
  std::shared_ptr<ProcessGroup> world_;
};

}  // namespace lockstep::comm
