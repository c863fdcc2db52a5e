#include "fsdp/mesh.h"

#include <algorithm>
#include <bit>

#include "core/base/error.h"

namespace lockstep::fsdp {

Mesh Mesh::make(const comm::DeviceMesh& mesh, int nearby) {
  const bool two = mesh.has("replicate");
  check(mesh.has("shard") && mesh.dimensions().size() == (two ? 2u : 1u) &&
            mesh.dimensions().back().name == "shard",
        "[fsdp] expected a mesh of the dimension shard, or of replicate and shard in this order, "
        "got ",
        mesh.describe(), "; of a larger mesh take submesh({\"replicate\", \"shard\"})");
  const int columns = mesh.size("shard"), rank = mesh.world()->rank();
  check(nearby >= 0 && (nearby == 0 || columns % nearby == 0), "[fsdp] groups of ", nearby,
        " ranks do not divide ", columns, " shards");
  // Without this dimension, the mesh is a grid of one row, and each group has one rank.
  const auto replicate =
      two ? mesh.group("replicate")
          : comm::DeviceMesh(mesh.world(), {{"replicate", 1}, {"shard", columns}})
                .group("replicate");
  Mesh made{.world = mesh.world(),
            .shard = mesh.group("shard"),
            .replicate = replicate,
            .nearby = nullptr};
  if (nearby > 0 && nearby < columns) made.nearby = mesh.world()->split(rank / nearby, rank);
  return made;
}

void Mesh::abort(const std::string& reason) const {
  for (const auto& group : {world, shard, replicate, nearby})
    if (group) group->abort(reason);
}

Place Mesh::place() const { return {rows(), columns(), replicate->rank(), shard->rank()}; }

Assignment assign(int64_t micro_batches, const Place& place, bool interleave) {
  const auto [rows, columns, row, column] = place;
  check(micro_batches >= rows * columns, "[fsdp] ", micro_batches,
        " micro-batches a step are too few for ", rows * columns,
        " ranks; use fewer ranks or more micro-batches");
  const comm::ReduceTree replicas(micro_batches, rows);
  bool by_round = interleave && std::has_single_bit(static_cast<unsigned>(columns));
  for (int r = 0; r < rows; ++r) {
    const int64_t leaves = replicas.begin(r + 1) - replicas.begin(r);
    check(leaves >= columns, "[fsdp] ", micro_batches, " micro-batches a step leave row ", r,
          " of ", rows, " with ", leaves, " for its ", columns,
          " ranks; use fewer ranks or more micro-batches");
    by_round = by_round && leaves % columns == 0;
  }
  const int64_t first = replicas.begin(row), count = replicas.begin(row + 1) - first;
  const comm::ReduceTree blocks =
      by_round ? comm::ReduceTree(columns) : comm::ReduceTree(count, columns);
  Assignment result{.leaves = {},
                    .rounds = 0,
                    .by_round = by_round,
                    .row_tree = blocks,
                    .replica_tree = replicas};
  if (by_round) {
    result.rounds = count / columns;
    result.leaves = {first + column, result.rounds, columns};
  } else {
    result.leaves = {first + blocks.begin(column), blocks.begin(column + 1) - blocks.begin(column)};
    for (int c = 0; c < columns; ++c)
      result.rounds = std::max(result.rounds, blocks.begin(c + 1) - blocks.begin(c));
  }
  return result;
}

}  // namespace lockstep::fsdp
