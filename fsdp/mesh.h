// The groups among which a model is spread, as ranks of a grid: `replicate` rows of `shard`
// neighbours.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/device_mesh.h"
#include "comm/process_group.h"
#include "core/base/progression.h"

namespace lockstep::fsdp {

// A rank's place among `rows` × `columns`.
struct Place {
  int rows, columns, row, column;
};

// Rank r of the world is at row r / S, column r % S. A row holds the whole model, a slice a rank;
// rows hold equal slices.
struct Mesh {
  std::shared_ptr<comm::ProcessGroup> world;      // all ranks
  std::shared_ptr<comm::ProcessGroup> shard;      // this row's S ranks
  std::shared_ptr<comm::ProcessGroup> replicate;  // this column's R ranks
  // The ranks among which a unit is gathered again for backward: a part of the row. Null: the row.
  std::shared_ptr<comm::ProcessGroup> nearby;

  int rows() const { return replicate->size(); }
  int columns() const { return shard->size(); }
  Place place() const;

  // Collective. `mesh` has the dimension "shard" (S) and may have "replicate" (R) before it, and no
  // others. `nearby` (0: none) must divide S.
  static Mesh make(const comm::DeviceMesh& mesh, int nearby = 0);
  // Ends all of the groups, here and on the ranks that wait in them.
  void abort(const std::string& reason) const;
};

// Which rank computes which of a step's micro-batches, so that all sums between and inside ranks
// are nodes of one tree over the V micro-batches: rows take whole nodes; inside of a row either
// each round of S neighbouring micro-batches is one a rank, or each rank takes a whole node.
struct Assignment {
  Progression leaves;  // of this rank, in the order of computation
  int64_t rounds = 0;  // backward passes of a step: what the rank of the row with most leaves needs
  // Each round's gradients can be summed over the row at once (S a power of two that divides the
  // row's leaves); otherwise a rank must sum all its leaves first.
  bool by_round = false;
  comm::ReduceTree row_tree;      // over a row's ranks, of one round or of all
  comm::ReduceTree replica_tree;  // over the rows
};

// `interleave`: take rounds where they are possible. Throws UsageError where some rank would have
// nothing to compute.
Assignment assign(int64_t micro_batches, const Place& place, bool interleave);

}  // namespace lockstep::fsdp
