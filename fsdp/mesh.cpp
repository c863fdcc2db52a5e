#include "fsdp/mesh.h"

#include <algorithm>
#include <bit>

#include "core/base/error.h"

namespace lockstep::fsdp {

Mesh Mesh::make(std::shared_ptr<comm::ProcessGroup> world, int columns, int nearby) {
  const int size = world->size(), rank = world->rank();
  check(columns >= 1 && size % columns == 0, "[fsdp] ", columns, " shards do not divide ", size, " ranks");
  check(nearby >= 0 && (nearby == 0 || columns % nearby == 0), "[fsdp] groups of ", nearby, " ranks do not divide ", columns, " shards");
  Mesh mesh{.world = world, .shard = world, .replicate = nullptr, .nearby = nullptr};
  if (columns != size) mesh.shard = world->split(rank / columns, rank);
  mesh.replicate = columns == 1 ? world : std::shared_ptr(world->split(rank % columns, rank));
  if (nearby > 0 && nearby < columns) mesh.nearby = world->split(rank / nearby, rank);
  return mesh;
}

Assignment assign(int64_t micro_batches, const Mesh& mesh, bool interleave) {
  const int rows = mesh.rows(), columns = mesh.columns(), row = mesh.replicate->rank(), column = mesh.shard->rank();
  check(micro_batches >= mesh.world->size(), "[fsdp] ", micro_batches, " micro-batches a step are too few for ", mesh.world->size(),
        " ranks; use fewer ranks or more micro-batches");
  const comm::ReduceTree replicas(micro_batches, rows);
  bool by_round = interleave && std::has_single_bit(static_cast<unsigned>(columns));
  for (int r = 0; r < rows; ++r) {
    const int64_t leaves = replicas.begin(r + 1) - replicas.begin(r);
    check(leaves >= columns, "[fsdp] ", micro_batches, " micro-batches a step leave row ", r, " of ", rows, " with ", leaves, " for its ",
          columns, " ranks; use fewer ranks or more micro-batches");
    by_round = by_round && leaves % columns == 0;
  }
  const int64_t first = replicas.begin(row), count = replicas.begin(row + 1) - first;
  const comm::ReduceTree blocks = by_round ? comm::ReduceTree(columns) : comm::ReduceTree(count, columns);
  Assignment result{.leaves = {}, .rounds = 0, .by_round = by_round, .row_tree = blocks, .replica_tree = replicas};
  if (by_round) {
    for (int64_t leaf = first + column; leaf < first + count; leaf += columns) result.leaves.push_back(leaf);
    result.rounds = count / columns;
  } else {
    for (int64_t leaf = blocks.begin(column); leaf < blocks.begin(column + 1); ++leaf) result.leaves.push_back(first + leaf);
    for (int c = 0; c < columns; ++c) result.rounds = std::max(result.rounds, blocks.begin(c + 1) - blocks.begin(c));
  }
  return result;
}

}  // namespace lockstep::fsdp
