// DeviceMesh: the ranks of a group as the points of a grid with named dimensions, and a group for
// each line through it. HSDP is the mesh {{"replicate", 2}, {"shard", 4}}: four neighbours share a
// copy of the model, and ranks of equal place in it hold equal slices.
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

class DeviceMesh {
 public:
  // Collective over `world`; the same dimensions on every rank, with UsageError on all of them
  // where they differ. Throws UsageError, before anything is communicated, for dimensions that
  // cannot be: none, an empty or repeated name, sizes whose product is not the number of ranks.
  DeviceMesh(std::shared_ptr<ProcessGroup> world, std::vector<MeshDimension> dimensions);

  const std::vector<MeshDimension>& dimensions() const { return dimensions_; }
  bool has(std::string_view name) const;
  // The functions that take a name throw UsageError for one that the mesh lacks, and say which it
  // has.
  int size(std::string_view name) const;
  // This rank's place in a dimension: its rank in group(name).
  int coordinate(std::string_view name) const;
  // The ranks that differ from this one in this dimension alone, in its order. Of one rank where
  // the size is 1; `world` itself where the dimension is the whole mesh.
  const std::shared_ptr<ProcessGroup>& group(std::string_view name) const;
  const std::shared_ptr<ProcessGroup>& world() const { return world_; }

  // "replicate 2 x shard 4".
  std::string describe() const;

 private:
  size_t index(std::string_view name) const;

  std::shared_ptr<ProcessGroup> world_;
  std::vector<MeshDimension> dimensions_;
  std::vector<int> coordinates_;
  std::vector<std::shared_ptr<ProcessGroup>> groups_;
};

}  // namespace lockstep::comm
