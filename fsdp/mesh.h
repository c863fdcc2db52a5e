// The groups over which a model is sharded. The ranks form a grid: `replicate` rows of `shard`
// neighbours.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/device_mesh.h"
#include "comm/process_group.h"
#include "core/base/progression.h"

namespace lockstep::fsdp {

// A rank's place in a grid of `rows` × `columns`.
struct Place {
  int rows, columns, row, column;
};

// Rank r of the world is in row r / S and column r % S. A row holds the whole model, one slice a
// rank. All rows hold equal slices.
struct Mesh {
  std::shared_ptr<comm::ProcessGroup> world;      // all ranks
  std::shared_ptr<comm::ProcessGroup> shard;      // this row's S ranks
  std::shared_ptr<comm::ProcessGroup> replicate;  // this column's R ranks
  // The ranks that gather a unit again for backward, a part of the row. Null: the whole row.
  std::shared_ptr<comm::ProcessGroup> nearby;

  int rows() const { return replicate->size(); }
  int columns() const { return shard->size(); }
  Place place() const;

  // Collective. `mesh` has the dimension "shard" (S), may have "replicate" (R) before it, and has
  // no others. `nearby` (0: none) must divide S.
  static Mesh make(const comm::DeviceMesh& mesh, int nearby = 0);
  // Ends all of these groups, here and on the ranks that wait in them.
  void abort(const std::string& reason) const;
};

// Which rank computes which micro-batches. All sums, between ranks and within them, are nodes of
// one tree over the V micro-batches. Rows take whole nodes. Within a row, either each round of S
// neighbouring micro-batches gives one to each rank, or each rank takes a whole node.
struct Assignment {
  Progression leaves;  // of this rank, in the order of computation
  int64_t rounds = 0;  // backward passes in a step: as many as the busiest rank of the row needs
  // Whether each round's gradients can be summed over the row at once (if S is a power of two that
  // divides the row's leaves). Otherwise a rank first sums all its leaves.
  bool by_round = false;
  comm::ReduceTree row_tree;      // over a row's ranks, for one round or for all
  comm::ReduceTree replica_tree;  // over the rows
};

// `interleave`: uses rounds if possible. Throws UsageError if some rank would have nothing to
// compute.
Assignment assign(int64_t micro_batches, const Place& place, bool interleave);

}  // namespace lockstep::fsdp
